"""When a change of a model is done, what is said about it, and what its record says: without a fleet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.repository.parameters import LoadCall, LoadOptions, load_record, parse_parameters
from gateway.repository.progress import add_workers, judge, noted, reasons, status
from protocol.control import DesiredModel, Wish
from protocol.errors import InvalidArgument
from protocol.messages import ControlProgress, Heartbeat, ModelLoad, ModelState, Outcome

READY, LOADING, UNAVAILABLE = ModelState.READY, ModelState.LOADING, ModelState.UNAVAILABLE


def beat(
    worker: str, *control: ControlProgress, models: tuple[ModelLoad, ...] = (), unloaded: tuple[str, ...] = ()
) -> Heartbeat:
    return Heartbeat(worker, "i", "host", 1, 0.0, models, control=control, mode="explicit", unloaded=unloaded)


def test_every_worker_counts_once() -> None:
    beats = [
        beat("a", ControlProgress("m", 5, READY, done=True)),
        beat("b", ControlProgress("m", 7, READY, done=True), ControlProgress("n", 1, LOADING)),
        beat("c", ControlProgress("m", 4, READY, done=True)),
        beat("d", ControlProgress("m", 5, LOADING)),
        beat("e"),
        beat("f", ControlProgress("m", 5, UNAVAILABLE, "no weights", True, Outcome.FAILED)),
        beat("g", ControlProgress("m", 5, UNAVAILABLE, "full", True, Outcome.REFUSED)),
        beat("h", ControlProgress("m", 5, UNAVAILABLE, "not here", True, Outcome.ABSENT)),
        beat("i", ControlProgress("m", 5, UNAVAILABLE, "other workers serve it", True)),
    ]
    verdict = judge("m", 5, beats)
    assert verdict.waiting == ("c", "d", "e")
    assert verdict.ready == ("a", "b")
    assert (verdict.failed, verdict.refused, verdict.absent) == ((("f", "no weights"),), (("g", "full"),), ("h",))
    assert not noted("m", 5, beats)
    assert noted("m", 5, [beats[0], beats[3]])


def test_workers_are_named_when_they_disagree() -> None:
    assert reasons([("a", "x;\n"), ("b", "x;\n")], ()) == "x;\n"
    assert reasons([("a", "x;\n"), ("b", "y;\n")], ()) == "worker a: x;\nworker b: y;\n0 of 2 workers serve it"
    assert reasons([("a", "x;\n")], ("b",)) == "worker a: x;\n1 of 2 workers serve it"


def test_the_index_says_what_workers_do() -> None:
    entries = [
        {"name": "b", "version": "10", "state": "READY"},
        {"name": "b", "version": "9", "state": "UNAVAILABLE", "reason": "unloaded"},
    ]
    loading = (ModelLoad("b", "9", LOADING), ModelLoad("b", "10", LOADING), ModelLoad("b", "11", LOADING))
    full = ControlProgress("d", 1, UNAVAILABLE, "it needs 5 bytes\n", True, Outcome.REFUSED)
    add_workers(entries, [beat("w", full, models=loading, unloaded=("a", "b", "d"))])
    assert entries == [
        {"name": "a"},
        {"name": "b", "version": "9", "state": "LOADING"},
        {"name": "b", "version": "10", "state": "READY"},
        {"name": "b", "version": "11", "state": "LOADING"},
        {"name": "d", "version": "", "state": "UNAVAILABLE", "reason": "it needs 5 bytes"},
    ]


def test_a_strange_heartbeat_breaks_no_index() -> None:
    entries: list[dict[str, object]] = []
    add_workers(entries, [beat("w", models=(ModelLoad("m", "x", LOADING), ModelLoad("m", "²", LOADING)))])
    assert len(entries) == 2


def test_the_status_of_workers_with_and_without_control() -> None:
    served = (ModelLoad("m", "1", READY, digest="d"),)
    found = status("m", Wish(5, DesiredModel("m", True)), [
        Heartbeat("z", "i", "host", 1, 0.0, served, mode="none", memory=(10, 4)),
        beat("a", ControlProgress("m", 5, UNAVAILABLE, "no weights\n", True, Outcome.FAILED)),
    ])  # fmt: skip
    first, second = found["workers"]
    assert (first["worker"], first["state"], first["reason"], first["generation"]) == (
        "a",
        "UNAVAILABLE",
        "no weights",
        5,
    )
    assert (second["state"], second["control_mode"], second["generation"], second["done"]) == (
        "READY",
        "none",
        -1,
        False,
    )
    assert second["versions"] == [{"version": "1", "state": "READY", "digest": "d"}]
    assert second["memory"] == {"limit_bytes": 10, "used_bytes": 4}


def record(before: DesiredModel | None = None, now: float = 100.0, config: str = "", **options: object) -> DesiredModel:
    return load_record(LoadCall("m", config, options=LoadOptions(**options)), before, now)  # type: ignore[arg-type]


def test_what_a_call_does_not_say_stays_until_the_model_is_unloaded() -> None:
    first = record(config='{"backend": "python"}', replicas=2, lease_s=50, digests=("0" * 64,))
    again = record(first, now=120.0)
    assert (again.config, again.replicas, again.lease_until) == ('{"backend": "python"}', 2, 150.0)
    assert record(first, now=150.0).lease_until == 0.0, "a lease that has ended does not end what is loaded after it"
    anew = record(DesiredModel("m", False, digests=("0" * 64,)))
    assert (anew.config, anew.replicas, anew.digests) == ("", 0, ("0" * 64,))


def test_a_pin_ends_leases_and_a_lease_ends_the_pin() -> None:
    leased = record(lease_s=50, idle_after_s=60)
    pinned = record(leased, pinned=True)
    assert (pinned.pinned, pinned.lease_until, pinned.idle_after) == (True, 0.0, 0.0)
    assert record(pinned).pinned
    assert not record(pinned, pinned=False).pinned
    assert (record(pinned, lease_s=50).pinned, record(pinned, lease_s=50).lease_until) == (False, 150.0)
    assert record(pinned, lease_s=0).pinned


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("0" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
)  # fmt: skip
names = st.sampled_from(
    ["config", "file:1/a", "file:", "replicas", "pinned", "lease_s", "idle_after_s", "digests", "x"]
)


@given(values | st.dictionaries(names, values, max_size=4))
def test_any_parameters_are_a_call_or_refused(parameters: object) -> None:
    try:
        config, files, options = parse_parameters(parameters)
        call = LoadCall("m", config, {path: text.encode(errors="replace") for path, text in files.items()}, options)
    except InvalidArgument:
        return
    entry = load_record(call, None, 100.0)
    assert entry.loaded
    assert entry.lease_until == 0.0 or entry.lease_until > 100.0
    assert not (entry.pinned and (entry.lease_until or entry.idle_after))


@pytest.mark.parametrize("name", ["", "a/b", "..", " a", "a\n"])
def test_a_model_made_of_files_has_a_plain_name(name: str) -> None:
    with pytest.raises(InvalidArgument, match="must be a plain name"):
        LoadCall(name, "{}", {"1/model.py": b""})
