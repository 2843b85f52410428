from __future__ import annotations

from typing import Any

import pytest

from gateway.catalogue.catalogue import Catalogue
from protocol.errors import FleetError, NotFound, Unavailable
from protocol.heartbeat_codec import encode_announcement
from protocol.messages import Announcement, Heartbeat, ModelLoad, ModelState
from protocol.naming import Names
from protocol.ports import Record
from tests.gateway.fleet import ADD_SUB

READY, LOADING, UNAVAILABLE = ModelState.READY, ModelState.LOADING, ModelState.UNAVAILABLE


def announcement(version: str, state: ModelState = READY, model: str = "m", **config: Any) -> Announcement:
    return Announcement(
        model, version, state, {**ADD_SUB, "name": model, **config}, "digest", "broken" * (state is UNAVAILABLE)
    )


def record(entry: Announcement | None, key: bytes = b"m/1", value: bytes = b"") -> Record:
    if entry is not None:
        key, value = encode_announcement(entry)
    return Record("penstock.models", 0, 7, 0.0, value, (), key)


def catalogue(*entries: Announcement) -> Catalogue:
    found = Catalogue(Names(), {})
    for entry in entries:
        found.announce(entry)
    return found


def refused(found: Catalogue, model: str, version: str = "") -> FleetError:
    with pytest.raises(FleetError) as caught:
        found.resolve(model, version)
    return caught.value


def test_the_highest_ready_version_is_meant_where_none_is_named() -> None:
    found = catalogue(announcement("2"), announcement("10"), announcement("11", LOADING))

    assert found.resolve("m").version == "10"
    assert found.resolve("m", "2").version == "2"
    assert found.resolve("m", "002").version == "2"


def test_the_last_announcement_of_a_version_counts() -> None:
    found = catalogue(announcement("1"), announcement("2"))
    assert found.resolve("m").version == "2"

    found.announce(announcement("2", UNAVAILABLE))

    assert found.resolve("m").version == "1"


@pytest.mark.parametrize(
    ("model", "version", "kind", "text"),
    [
        ("x", "", NotFound, "Request for unknown model: 'x' is not found"),
        ("x", "1", NotFound, "Request for unknown model: 'x' is not found"),
        ("m", "9", NotFound, "Request for unknown model: 'm' version 9 is not found"),
        ("m", "1", Unavailable, "Request for unknown model: 'm' version 1 is not at ready state: broken"),
        ("m", "", NotFound, "Request for unknown model: 'm' has no available versions"),
    ],
)
def test_lookup_errors_are_tritons(model: str, version: str, kind: type[FleetError], text: str) -> None:
    error = refused(catalogue(announcement("1", UNAVAILABLE)), model, version)

    assert (type(error), error.message) == (kind, text)


def test_a_configuration_that_cannot_be_read_makes_only_its_version_unavailable() -> None:
    found = catalogue(announcement("1"), announcement("2", from_the_future=1))

    assert found.resolve("m").version == "1"
    assert "cannot read its configuration" in refused(found, "m", "2").message
    assert found.index()[1]["state"] == "UNAVAILABLE"


def test_records_that_are_no_announcement_are_reported_and_skipped() -> None:
    found = Catalogue(Names(), {})
    problems = found.apply([record(None, value=b"\xc1"), record(announcement("1"))])

    assert len(problems) == 1
    assert "offset 7" in problems[0]
    assert found.resolve("m").version == "1"


def test_an_empty_record_removes_its_version() -> None:
    found = catalogue(announcement("1"), announcement("2"))
    found.apply([record(None, b"m/2"), record(None, b"never/1"), record(None, b"nonsense")])
    assert found.resolve("m").version == "1"

    found.apply([record(None, b"m/1")])

    assert "is not found" in refused(found, "m").message


def test_the_index_shows_every_version() -> None:
    found = catalogue(announcement("2"), announcement("1", UNAVAILABLE), announcement("1", LOADING, "a"))

    assert found.index() == [
        {"name": "a", "version": "1", "state": "LOADING"},
        {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "broken"},
        {"name": "m", "version": "2", "state": "READY"},
    ]
    assert found.index(ready_only=True) == [{"name": "m", "version": "2", "state": "READY"}]


def test_live_workers_are_counted_per_version() -> None:
    found = catalogue(announcement("1"), announcement("2"))

    def beat(worker: str, at: float, *versions: str, draining: bool = False) -> Heartbeat:
        return Heartbeat(worker, "1", "h", 1, at, tuple(ModelLoad("m", v, READY) for v in versions), draining=draining)

    assert not found.seen(
        [beat("a", 10, "1"), beat("b", 10, "1", "2"), beat("old", 8, "2"), beat("c", 10, "2", draining=True)], 9.0
    )
    found.announce(announcement("2"))  # an announcement does not change who serves

    assert [served.workers for served in found.versions("m")] == [2, 1]


def test_different_files_under_one_version_are_told_once_and_shown() -> None:
    found = catalogue(announcement("1"), announcement("2"))

    def beat(worker: str, digest: str, version: str = "1", at: float = 10.0) -> Heartbeat:
        return Heartbeat(worker, "1", "h", 1, at, (ModelLoad("m", version, READY, digest=digest),))

    old, new = "a" * 64, "b" * 64
    assert found.seen([beat("w", old), beat("x", old), beat("y", new, "2")], 9.0) == []
    mixed = [beat("w", old), beat("x", new), beat("y", new, "2"), beat("dead", "c", "2", at=1.0)]
    assert [served.version for served in found.seen(mixed, 9.0)] == ["1"]
    assert found.seen(mixed, 9.0) == []
    found.announce(announcement("1"))
    reasons = {entry["version"]: entry.get("reason") for entry in found.index()}
    assert reasons["2"] is None
    assert f"({'a' * 12}, {'b' * 12})" in reasons["1"]
    assert [served.counters.digests for served in found.versions("m")] == [2, 1]
    assert found.seen([beat("w", new), beat("x", new)], 9.0) == []
    assert found.versions("m")[0].mixed == ""
