"""Any field of a dead letter may be hostile: with any content it is listed, shown, sent again and exported."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import orjson
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.cli import group
from penstock.dead import reproducer, showing, topic
from penstock.dead.letters import ReadLetter, Redriven, read_letter
from penstock.dead.redriving import Redrive, plan_redrives
from protocol.dead_letter import EVIDENCE_HEADERS, HeaderPairs
from protocol.naming import Names
from protocol.ports import Bus, OutRecord, Record
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings
from tests.penstock.dead_letters import evidence, request

NAMES = Names("penstock")
DEAD = NAMES.dead_topic("m")

names = st.one_of(
    st.sampled_from(
        [
            *EVIDENCE_HEADERS,
            "id",
            "principal",
            "reply-to",
            "deadline",
            "content-type",
            "stamps",
            "redriven",
            "redriven-as",
            "redrive-of",
        ]
    ),
    st.binary(max_size=6).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
contents = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.integers(-5, 2**70).map(lambda n: b"%d" % n),
    st.sampled_from([b"application/json", b"penstock.infer.m.1", b"9" * 400]),
)
headers = st.lists(st.tuples(names, contents), max_size=8).map(tuple)
letters = st.builds(
    Record,
    st.just(DEAD),
    st.just(0),
    st.integers(0, 2**40),
    st.floats() | st.just(-0.001) | st.floats(0, 1e16),
    st.sampled_from([b"", request()[0]]) | st.binary(max_size=60),
    st.tuples(headers, st.sampled_from([(), evidence(), (("dead-reason", None),)])).map(lambda pair: pair[0] + pair[1]),
    st.none() | st.binary(max_size=8),
)


@given(letters)
def test_a_letter_with_anything_in_it_is_shown(record: Record) -> None:
    letter = read_letter(record, "m")
    if isinstance(letter, Redriven):
        assert isinstance(letter.number, int)
        return
    assert orjson.loads(orjson.dumps(showing.summary(letter, NAMES)))["place"] == letter.place
    facts = showing.whole(letter, record.value, NAMES)
    assert orjson.loads(orjson.dumps(facts))["place"] == letter.place
    assert all(line.isprintable() for line in showing.page(facts))
    assert all(line.isprintable() for line in showing.table([letter], {}, 132))


@given(letters)
def test_what_is_sent_again_has_the_headers_of_the_original(record: Record) -> None:
    letter = read_letter(record, "m")
    if isinstance(letter, Redriven):
        return
    for each in plan_redrives([letter], [letter], [], NAMES, again=True).redrives:
        kept = [pair for pair in letter.original if pair[0] not in ("id", "deadline", "redrive-of")]
        assert [pair for pair in each.headers() if pair[0] not in ("id", "redrive-of")] == kept
    assert Redrive(letter, "x~r1").note().headers


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(letters)
def test_a_reproducer_keeps_every_header_and_what_is_null_in_it(tmp_path_factory: object, record: Record) -> None:
    letter = read_letter(record, "m")
    if isinstance(letter, Redriven):
        return
    place = tmp_path_factory.mktemp("case") / "case"  # type: ignore[attr-defined]  # pytest's
    reproducer.write_case(place, reproducer.Case(letter, "1", bytes(record.value)))
    again = reproducer.load_case(place)
    assert (again.letter.original, again.letter.key, again.letter.id) == (letter.original, letter.key, letter.id)
    assert again.letter.evidence == letter.evidence


def run(work: object, data: Path) -> None:
    async def on_the_bus() -> None:
        bus = open_transport(TransportSettings(data_dir=data)).bus
        await bus.open()
        try:
            await work(bus)  # type: ignore[operator]
        finally:
            await bus.close()

    asyncio.run(on_the_bus())


def dead(data: Path, *arguments: str) -> str:
    done = CliRunner(catch_exceptions=False).invoke(
        group, ["dead", arguments[0], "--data-dir", str(data), *arguments[1:]]
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_letter_with_null_headers_is_listed_shown_and_sent_again(tmp_path: Path) -> None:
    strange: HeaderPairs = (("id", None), ("principal", None), ("x", None), ("deadline", None), ("", b"\xff"))

    async def work(bus: Bus) -> None:
        await bus.ensure_topic(NAMES.catalogue_topic, 1, compacted=True)
        for key in (b"m/1", b"/", b"\xff/1", b"m" * 400 + b"/1", b"no slash"):
            await bus.publish(NAMES.catalogue_topic, [OutRecord(b"x", key=key)])
        for name in (NAMES.infer_topic("m", "1"), DEAD):
            await bus.ensure_topic(name, 1)
        value, _ = request()
        await bus.publish(DEAD, [OutRecord(value, (*strange, *evidence()), None, 1.0)])
        await bus.publish(DEAD, [OutRecord(b"", strange, None, 9.2e15)])
        await bus.publish(DEAD, [OutRecord(b"", (("dead-reason", None), ("dead-partition", None)), None)])
        await bus.publish(DEAD, [OutRecord(b"", (("redriven", None), ("redriven-as", None)), None)])

    data = tmp_path / "data"
    run(work, data)
    assert "3 dead letter(s): 2 unknown, 1 poison" in dead(data, "list")
    listed = json.loads(dead(data, "list", "--json"))["letters"]
    assert [each["id"] for each in listed if each["reason"] == "poison"] == ["penstock.infer.m.1-0-7-1700000000123"]
    for each in listed:
        dead(data, "show", each["place"], "--json")
        assert each["place"] in dead(data, "show", each["place"])
    assert "x = (null)" in dead(data, "show", "m/0/0")
    assert "1 sent again, 0 failed, 2 left out" in dead(data, "redrive")


async def test_one_letter_that_cannot_be_sent_again_does_not_stop_the_others() -> None:
    bus = open_transport(TransportSettings()).bus
    await bus.open()
    infer = NAMES.infer_topic("m", "1")
    for name in (infer, DEAD):
        await bus.ensure_topic(name, 1)
    value, pairs = request()
    await bus.publish(
        DEAD, [OutRecord(value, (*pairs, ("\udcff", b"v"), *evidence())), OutRecord(value, (*pairs, *evidence()))]
    )
    right = bus.publish

    async def publish(name: str, records: object, partition: int | None = None) -> object:
        for record in records:  # type: ignore[attr-defined]
            for header, _ in record.headers:
                header.encode()  # as a client does that accepts only text
        return await right(name, records, partition)  # type: ignore[arg-type]

    bus.publish = publish  # type: ignore[method-assign,assignment]
    found = await topic.read_dead_topic(bus, NAMES, "m")
    redrives = [Redrive(letter, f"x{n}~r1") for n, letter in enumerate(found.letters) if isinstance(letter, ReadLetter)]
    done = await topic.send_again(bus, NAMES, redrives, 0, lambda sent: None)
    assert [bool(each.problem) for each in done] == [True, False]
    await bus.close()
