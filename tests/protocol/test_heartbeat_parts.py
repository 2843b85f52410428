"""Heartbeats that are taken apart, written, lost, and put together again."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import msgpack
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import CodecError
from protocol.heartbeat_codec import decode_heartbeat, encode_heartbeat, for_version_1
from protocol.heartbeat_parts import (
    REWRITE,
    SETTLE,
    BeatReader,
    BeatWriter,
    Loads,
    Parts,
    decode_pulse,
    encode_pulse,
    facts_of,
    revision,
)
from protocol.messages import ControlProgress, Heartbeat, ModelLoad, ModelState, Outcome, Pulse

GOLDEN = Path(__file__).parent / "golden"
LOAD = ModelLoad(
    "addsub", "1", ModelState.READY, (0, 2), 3, 2, 8, 5, 0.5, digest="ab12", batch_partitions=(1,), batch_lag=70,
    batch_queued_rows=512, unready="no", runs=((4, 9, 1000),), executed=9, last_inference=1_800_000_000,
)  # fmt: skip
WAITING = dataclasses.replace(
    LOAD, unanswered=3, unread=40, batch_unanswered=2, batch_unread=68, batch_oldest_age=90.5, batch_running_rows=8
)
BEAT = Heartbeat(
    "worker-1", "c0ffee", "host", 42, 1_800_000_000.0, (LOAD,), {"penstock.infer.addsub.1": "worker-1-x"}, False, (),
    (ControlProgress("addsub", 7, ModelState.READY, "", True),), (10, 5), "explicit", ("other",),
)  # fmt: skip


class Store:
    """The hashes of one worker, with one reader."""

    def __init__(self) -> None:
        self.pulse = self.description = self.loads = b""
        self.reader = BeatReader()
        self.written = 0

    def write(self, parts: Parts) -> None:
        self.pulse = parts.pulse
        self.description = parts.description or self.description
        self.loads = parts.loads or self.loads
        self.written += len(parts.pulse) + len(parts.description or b"") + len(parts.loads or b"")

    def read(self, worker: str = "worker-1") -> Heartbeat | None:
        assert not self.reader.read([worker.encode()], [self.pulse])
        assert self.reader.pulses() == [decode_pulse(worker, self.pulse)]
        descriptions, loads = self.reader.wanted()
        if descriptions:
            assert not self.reader.described(worker, self.description or None)
        if loads:
            assert not self.reader.loaded({worker.encode(): self.loads or None})
        return next(iter(self.reader.heartbeats()), None)


def test_the_parts_are_the_golden_files() -> None:
    """To change the format on purpose: raise VERSION, keep the old files readable, write new ones beside them."""
    writer = BeatWriter()
    parts = writer.parts(BEAT)
    later = writer.parts(dataclasses.replace(BEAT, models=(dataclasses.replace(LOAD, lag=6),)))
    for name, value in {"pulse": parts.pulse, "description": parts.description, "loads": later.loads}.items():
        assert (GOLDEN / f"heartbeat-{name}.v2.bin").read_bytes() == value


def test_what_waits_comes_after_the_numbers_that_older_readers_know() -> None:
    writer = BeatWriter()
    parts = writer.parts(dataclasses.replace(BEAT, models=(WAITING,)))
    later = writer.parts(dataclasses.replace(BEAT, models=(dataclasses.replace(WAITING, lag=6),)))
    for name, value in {"description": parts.description, "loads": later.loads}.items():
        assert (GOLDEN / f"heartbeat-{name}-waiting.v2.bin").read_bytes() == value
    (old,), (new,) = (
        msgpack.unpackb(each)["models"] for each in (BeatWriter().parts(BEAT).description, parts.description)
    )
    old, new = msgpack.unpackb(old[7]), msgpack.unpackb(new[7])
    assert (len(old), new[:10], new[10:]) == (10, old, [3, 40, 2, 68, 90_500_000, 8])
    cut = msgpack.packb(new[:12])
    (load,) = Loads((ModelLoad("m", "1", ModelState.READY),), (cut,), {})
    assert (load.lag, load.unanswered, load.unread) == (5, None, 0)


SAID = ("unanswered", "unread", "batch_unanswered", "batch_unread", "batch_oldest_age", "batch_running_rows")
numbers = st.integers(0, 2**40)
names = st.sampled_from(["a", "b", "c"])
loads = st.builds(
    ModelLoad, names, names, st.sampled_from(ModelState), st.tuples(numbers), numbers, numbers, numbers, numbers,
    st.integers(0, 10**9).map(lambda micros: micros / 1e6), batch_lag=numbers, batch_queued_rows=numbers, executed=numbers,
    runs=st.lists(st.tuples(numbers, numbers, numbers), max_size=4).map(tuple), last_inference=numbers, digest=names,
)  # fmt: skip
waiting = st.builds(
    lambda load, *said: dataclasses.replace(load, **dict(zip(SAID, said, strict=True))), loads, numbers, numbers, numbers, numbers,
    st.integers(0, 10**9).map(lambda micros: micros / 1e6), numbers,
)  # fmt: skip
progress = st.builds(ControlProgress, names, numbers, st.sampled_from(ModelState), outcome=st.sampled_from(Outcome))
beats = st.builds(
    Heartbeat, st.just("worker-1"), names, names, numbers, st.integers(0, 2**50).map(lambda micros: micros / 1e6),
    st.lists(loads | waiting, max_size=4).map(tuple), st.dictionaries(names, names, max_size=2), st.booleans(),
    control=st.lists(progress, max_size=2).map(tuple), mode=names, unloaded=st.lists(names, max_size=2).map(tuple),
    restarts=st.integers(0, 1000),
)  # fmt: skip


@given(st.lists(beats, max_size=5))
def test_whatever_is_written_is_read(written: list[Heartbeat]) -> None:
    store, writer = Store(), BeatWriter()
    for beat in written:
        store.write(writer.parts(beat))
        assert store.read() == beat


@given(
    st.lists(st.tuples(beats, st.integers(0, 1), st.sampled_from(["written", "lost", "all is lost"])), max_size=5),
)
def test_two_writers_and_a_store_that_loses_parts_never_make_a_heartbeat_that_was_not(
    steps: list[tuple[Heartbeat, int, str]],
) -> None:
    """Whatever is lost, the next whole heartbeat heals it."""
    store, writers, said = Store(), [BeatWriter(), BeatWriter()], []
    for beat, number, fate in steps:
        writer = writers[number]
        parts = writer.parts(beat)
        said.append(beat)
        if fate == "written":
            store.write(parts)
        else:
            writer.forget()
            if fate == "lost":
                store.write(dataclasses.replace(parts, description=None, loads=None))
            else:
                store.pulse = store.description = store.loads = b""
                continue
        read = store.read()
        assert read is None or any(same(read, each) for each in said)
    writers[0].forget()
    store.write(writers[0].parts(BEAT))
    read = store.read()
    assert read is not None
    assert read == BEAT


def same(read: Heartbeat, said: Heartbeat) -> bool:
    """Whether they differ in nothing that a description or loads have; a process's id is in the pulse, too."""
    return dataclasses.replace(read, at=said.at, draining=said.draining, incarnation=said.incarnation) == said


def many(models: int, **load: int) -> Heartbeat:
    return dataclasses.replace(
        BEAT, models=tuple(ModelLoad(f"m{n}", "1", ModelState.READY, (0, 1), **load) for n in range(models))
    )


def busy(beat: Heartbeat, models: list[int], lag: int) -> Heartbeat:
    changed = [dataclasses.replace(m, lag=lag) if at in models else m for at, m in enumerate(beat.models)]
    return dataclasses.replace(beat, models=tuple(changed))


def test_an_idle_worker_writes_a_pulse_and_nothing_else() -> None:
    writer = BeatWriter()
    writer.parts(many(50))
    for second in range(REWRITE - 1):
        parts = writer.parts(dataclasses.replace(many(50), at=float(second)))
        assert (parts.description, parts.loads) == (None, None)
        assert len(parts.pulse) < 64


def test_only_models_with_traffic_are_written() -> None:
    writer = BeatWriter()
    writer.parts(many(50))
    for lag in range(1, REWRITE - 1):
        parts = writer.parts(busy(many(50), [3, 40], lag))
        assert parts.description is None
        assert parts.loads is not None
        assert len(parts.loads) < 64


def test_models_whose_numbers_stand_still_are_no_longer_repeated() -> None:
    store, writer, beat = Store(), BeatWriter(), many(50)
    store.write(writer.parts(beat))
    for turn in range(100):
        beat = busy(beat, [turn % 50], turn + 1)
        parts = writer.parts(beat)
        store.write(parts)
        assert parts.loads is not None
        assert len(parts.loads) < 64 + 20 * (SETTLE + 3)
        assert store.read() == beat


def test_all_parts_are_written_again_now_and_then_and_after_an_answer() -> None:
    writer = BeatWriter()
    assert all(dataclasses.astuple(writer.parts(BEAT)))
    seen = [writer.parts(BEAT) for _ in range(2 * REWRITE)]
    assert [parts.description is not None for parts in seen].count(True) == 2
    asked = dataclasses.replace(BEAT, asked=("x",))
    assert all(dataclasses.astuple(writer.parts(asked)))
    assert writer.parts(asked).description is None


def test_models_are_the_same_object_until_something_changes_and_their_facts_until_more_does() -> None:
    store, writer = Store(), BeatWriter()
    read = []
    for beat in (BEAT, dataclasses.replace(BEAT, at=BEAT.at + 1), busy(BEAT, [0], 9)):
        store.write(writer.parts(beat))
        heartbeat = store.read()
        assert heartbeat is not None
        read.append(heartbeat.models)
    assert read[0] is read[1] is not read[2]
    assert facts_of(read[0]) is facts_of(read[2])
    assert [m.lag for m in facts_of(read[2])] == [0]
    assert (read[2][-1].lag, [m.lag for m in read[2][:1]], repr(read[2])) == (9, [9], repr(tuple(read[2])))
    assert facts_of(BEAT.models) is BEAT.models
    assert Loads((), ()) == ()


def test_a_model_is_the_same_object_until_its_numbers_change() -> None:
    store, writer, beat = Store(), BeatWriter(), many(3)
    store.write(writer.parts(beat))
    first = store.read()
    store.write(writer.parts(busy(beat, [1], 9)))
    second = store.read()
    assert first is not None
    assert second is not None

    same = [before is after for before, after in zip(first.models, second.models, strict=True)]

    assert same == [True, False, True]
    assert [load.lag for load in second.models] == [0, 9, 0]


STRANGE = [None, [], {}, 7, "x", [2], [3] * 7, [2, "i", None, 0, 0, b"", b""], [2, "i", float("inf"), 0, 0, b"", b""],
           [2, "i", 1, 0, 0, -1, b""], {"v": 2}, {"v": 3}, {"v": 2, "models": [[1]]}, [2, b"r", 0], [2, None, 0, b"x"],
           [2, b"r", "x", b"y"]]  # fmt: skip


@given(st.sampled_from(STRANGE).map(msgpack.packb) | st.binary(max_size=60))
def test_any_bytes_are_a_part_or_an_error(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        decode_pulse("w", data)
    reader = BeatReader()
    reader.read([b"w"], [encode_pulse(Pulse("w", "i", 1.0))])
    assert reader.described("w", data)
    assert not reader.described("w", data)
    assert reader.heartbeats() == []
    reader, parts = BeatReader(), BeatWriter().parts(BEAT)
    reader.read([BEAT.worker.encode()], [parts.pulse])
    assert not reader.described(BEAT.worker, parts.description)
    assert reader.loaded({BEAT.worker.encode(): data})
    assert reader.heartbeats() == [BEAT]


def test_numbers_that_cannot_be_read_are_missing() -> None:
    for data in (b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb(["x"] * 10), msgpack.packb([1] * 10)):
        (load,) = Loads((ModelLoad("m", "1", ModelState.READY),), (data,))
        assert load.model == "m"
        (load,) = Loads((ModelLoad("m", "1", ModelState.READY),), (b"",), msgpack.packb([2, b"12345678", 0, data]))
        assert load.model == "m"


def test_a_description_under_another_workers_name_is_refused() -> None:
    reader, parts = BeatReader(), BeatWriter().parts(BEAT)
    assert not reader.read([b"w2"], [parts.pulse])
    assert "worker-1" in reader.described("w2", parts.description)


def test_whoever_has_left_is_forgotten() -> None:
    store = Store()
    store.write(BeatWriter().parts(BEAT))
    assert store.read() == BEAT
    store.reader.read([], [])
    assert store.reader.heartbeats() == []
    store.reader.read([b"worker-1"], [store.pulse])
    assert store.reader.wanted() == ([b"worker-1"], [b"worker-1"])


@given(st.builds(Pulse, names, names, st.just(5.5), st.booleans(), st.booleans(), st.binary(), st.binary()))
def test_a_pulse_survives_the_wire(pulse: Pulse) -> None:
    assert decode_pulse(pulse.worker, encode_pulse(pulse)) == pulse
    assert len(revision(encode_pulse(pulse))) == 8


@given(
    st.lists(
        st.builds(
            Pulse, names, st.sampled_from(["", "i", "0123456789abcdef"]), st.integers(0, 2**51).map(lambda us: us / 1e6),
            st.booleans(), st.booleans(), st.sampled_from([b"", b"12345678"]), st.sampled_from([b"", b"abcdefgh", b"ABCDEFGH"]),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_pulses_that_are_read_one_after_the_other_are_as_if_read_alone(pulses: list[Pulse]) -> None:
    reader = BeatReader()
    for end in range(len(pulses) + 1):
        newest = {pulse.worker: pulse for pulse in pulses[:end]}
        encoded = {worker: encode_pulse(pulse) for worker, pulse in newest.items()}
        assert reader.read([worker.encode() for worker in encoded], list(encoded.values())) == {}
        assert reader.pulses() == [decode_pulse(worker, data) for worker, data in encoded.items()]


@given(st.binary(max_size=60), st.integers(0, 50), st.integers(0, 50))
@example(b"", 0, 50)
def test_a_pulse_that_a_stranger_changed_is_read_as_it_is(noise: bytes, start: int, end: int) -> None:
    pulse = Pulse("w", "0123456789abcdef", 1_800_000_000.0, False, True, b"12345678", b"abcdefgh")
    reader, data = BeatReader(), encode_pulse(pulse)
    assert reader.read([b"v", b"w"], [data, data]) == {}
    changed = data[:start] + noise + data[end:]
    try:
        alone = [decode_pulse("w", changed)]
    except CodecError:
        alone = []
    assert reader.read([b"v", b"w"], [data, changed]).keys() == (set() if alone else {"w"})
    assert reader.pulses() == [dataclasses.replace(pulse, worker="v"), *alone]


def test_numbers_that_are_written_again_with_new_ones_leave_the_facts_the_same_object() -> None:
    store, writer, beat = Store(), BeatWriter(), many(50)
    store.write(writer.parts(beat))
    first = store.read()
    beat = busy(beat, list(range(20)), 5)
    store.write(writer.parts(beat))
    parts = writer.parts(beat)  # they stand still: a new description takes them in
    assert parts.description is not None
    store.write(parts)
    second = store.read()
    assert first is not None
    assert second == beat
    assert facts_of(first.models) is facts_of(second.models)


def test_loads_that_the_pulse_does_not_name_are_read_again_once_somebody_looked() -> None:
    store, writer, beat = Store(), BeatWriter(), many(5)
    store.write(writer.parts(beat))
    store.read()
    parts = writer.parts(busy(beat, [1], 7))
    other = BeatWriter()
    other.parts(beat)
    store.write(dataclasses.replace(parts, loads=other.parts(busy(beat, [1], 8)).loads))
    seen = store.read()
    assert seen is not None
    assert store.reader.wanted() == ([], [])
    assert seen.models[1].lag == 8
    assert store.reader.wanted() == ([], [b"worker-1"])
    store.loads = parts.loads or b""
    again = store.read()
    assert again is not None
    assert (again.models[1].lag, store.reader.wanted()) == (7, ([], []))


def test_parts_that_are_written_again_are_not_read_again() -> None:
    store, writer, beat = Store(), BeatWriter(), many(5)
    for lag in range(2 * REWRITE):
        beat = busy(beat, [1], lag)
        parts = writer.parts(beat)
        store.write(parts)
        store.reader.read([beat.worker.encode()], [parts.pulse])
        descriptions, _ = store.reader.wanted()
        assert descriptions == ([beat.worker.encode()] if lag == 0 else [])
        assert store.read() == beat


def test_a_reader_of_version_1_gets_the_statistics_that_it_routes_by() -> None:
    old = decode_heartbeat(encode_heartbeat(for_version_1(BEAT)))
    assert old.models[0].statistics == {
        "inference_count": 9,
        "last_inference": 1_800_000_000_000,
        "batch_stats": [{"batch_size": 2, "compute_infer": {"count": 4, "ns": 1000}}],
    }
    whole = dataclasses.replace(BEAT, models=(dataclasses.replace(LOAD, statistics={"inference_count": 1}),))
    assert for_version_1(whole) == whole
    idle = Heartbeat("w", "i", "h", 1, 2.0, (ModelLoad("m", "1", ModelState.READY),))
    assert for_version_1(idle).models[0].statistics == {}
    assert decode_heartbeat(encode_heartbeat(BEAT)).models[0] == LOAD
    assert decode_heartbeat(encode_heartbeat(dataclasses.replace(BEAT, models=(WAITING,)))).models[0] == WAITING
