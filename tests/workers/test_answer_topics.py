"""Answers that go to topics: what is on the topic, and when the record is done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from protocol.answers import decode_answer, partition_of
from protocol.codec import encode_request
from protocol.errors import Code, NotFound, TooLarge, Unavailable
from protocol.messages import InferReply
from protocol.ports import Cancel, OutRecord, Published, Record, RequestState, Terminal
from protocol.transport.embedded.memory import MemoryStore
from tests.workers.fleet import IMPATIENT, NAMES, turn_of_the_loop, until
from tests.workers.serving import Bench, bench
from workers.results import topic_writer, topics

TOPIC = NAMES.infer_topic("m", "1")
DEAD = NAMES.dead_topic("m")
JOB = NAMES.results_topic("job")
OTHER = NAMES.results_topic("other")
REPLY_TO = NAMES.reply_to_topic("job")
JSON = ("content-type", b"application/json")


def body(*numbers: float) -> bytes:
    data = list(numbers)
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, len(data)], "data": data}
    return json.dumps({"id": "label", "inputs": [tensor]}).encode()


async def send(b: Bench, value: bytes, *headers: tuple[str, bytes | None], reply_to: str = REPLY_TO) -> None:
    record = OutRecord(value, [*headers, ("reply-to", reply_to.encode())], timestamp=1700000000.25)
    await b.caller.transport.bus.publish(TOPIC, [record], 0)


async def sent(b: Bench, name: str, *numbers: float, reply_to: str = REPLY_TO) -> None:
    await send(b, body(*numbers), JSON, ("id", name.encode()), reply_to=reply_to)


def on_topic(b: Bench, topic: str = JOB) -> list[Record]:
    logs = b.broker.topics[topic].logs if topic in b.broker.topics else []
    return [record for log in logs for record in log.slice(0, log.end)]


def answers(b: Bench, topic: str = JOB) -> dict[str, InferReply]:
    return dict(decode_answer(record) for record in on_topic(b, topic))


def committed(b: Bench) -> int:
    return b.broker.topics[TOPIC].groups[TOPIC].committed.get(0, 0)


async def settled(b: Bench, offset: int) -> None:
    await until(lambda: committed(b) == offset, f"a commit of {offset}, rather than {committed(b)},")


class Publishing:
    """Stands before the bus's `publish` to topics of results, and before its other calls for them."""

    def __init__(self, b: Bench, meet: Callable[[str, Sequence[OutRecord]], Exception | None]) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        right = b.bus.publish

        async def publish(topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
            if ".results." not in topic:
                return await right(topic, records, partition)
            error = meet(topic, records)
            await self.gate.wait()
            if error is not None:
                raise error
            published = await right(topic, records, partition)
            self.records += [(topic, record.value) for record in records]
            return published

        b.bus.publish = publish  # type: ignore[method-assign]


def well(topic: str, records: Sequence[OutRecord]) -> None:
    return None


@pytest.fixture(params=["the message itself", "bytes"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers as an immediate store takes them, and as any other."""
    if request.param == "bytes":
        monkeypatch.setattr("tests.workers.serving.Flaky.immediate", None)


@pytest.mark.usefixtures("store")
async def test_an_answer_goes_to_its_topic_and_leaves_a_bare_fence() -> None:
    async with bench() as b:
        await b.serve()
        await sent(b, "row/1", 7, 8)
        await settled(b, 1)

        (record,) = on_topic(b)
        assert record.key == b"row%2F1"
        assert json.loads(bytes(record.value)) == {
            "model_name": "m", "model_version": "1", "id": "label",
            "outputs": [{"name": "Y", "datatype": "FP32", "shape": [1, 2], "data": [7.0, 8.0]}],
        }  # fmt: skip
        assert dict(record.headers) == {
            "id": b"row/1", "content-type": b"application/json", "model": b"m", "version": b"1",
        }  # fmt: skip
        assert await b.store.look(["row%2F1"]) == [RequestState("done", b"")]
        assert b.server.fences.streams == {}


@pytest.mark.usefixtures("store")
async def test_msgpack_is_answered_in_msgpack_unless_json_is_asked_for() -> None:
    async with bench() as b:
        await b.serve()
        for name, accept in (("a", ""), ("b", "application/json")):
            request = b.caller.request(1, id=name, reply_to=REPLY_TO, accept=accept)
            await b.caller.transport.bus.publish(TOPIC, [OutRecord(*encode_request(request))], 0)
        await settled(b, 2)

        kinds = {bytes(record.key or b""): dict(record.headers)["content-type"] for record in on_topic(b)}
        assert kinds == {b"a": b"application/msgpack", b"b": b"application/json"}
        assert [reply.outputs[0].array().tolist() for reply in answers(b).values()] == [[[1.0]], [[1.0]]]
        assert answers(b)["a"].timing.worker == "w"


async def test_a_request_that_is_a_message_is_answered_on_its_topic() -> None:
    async with bench() as b:
        await b.serve()
        await b.caller.publish(b.caller.request(3, id="a", reply_to=REPLY_TO), partition=0)
        await settled(b, 1)
        assert answers(b)["a"].outputs[0].array().tolist() == [[3.0]]


async def test_a_key_has_the_partition_that_kafkas_clients_expect() -> None:
    async with bench() as b:
        await b.serve()
        await b.bus.ensure_topic(JOB, 3)
        for number in range(20):
            await sent(b, f"row-{number}", number)
        await settled(b, 20)
        for record in on_topic(b):
            assert record.partition == partition_of(record.key or b"", 3)
        assert len(answers(b)) == 20


async def test_a_record_is_done_only_when_its_topic_has_the_answer() -> None:
    async with bench() as b:
        await b.serve()
        publishing = Publishing(b, well)
        publishing.gate.clear()
        await sent(b, "a", 1)
        await sent(b, "b", 2, reply_to="")
        await until(lambda: b.server.fences.look("b", 0.0) is not None)
        assert committed(b) == 0
        (stored,) = await b.store.look(["a"])
        assert stored is not None
        assert stored.payload
        publishing.gate.set()
        await settled(b, 2)


# --- a topic that fails ------------------------------------------------------------------------------------------------


async def test_a_topic_that_may_not_be_written_stops_no_other_answer_and_gets_its_own_in_the_end() -> None:
    async with bench() as b:
        serving = await b.serve()
        denied = [True]
        problem = Unavailable(f"not authorized to write to {JOB}")
        Publishing(b, lambda topic, records: problem if topic == JOB and denied else None)
        await sent(b, "a", 1)
        await until(lambda: serving.runner.problem() != "")
        for number in range(20):
            await sent(b, f"b{number}", number, reply_to=NAMES.reply_to_topic("other"))
            await b.caller.ask(b.caller.request(number))
        await until(lambda: len(answers(b, OTHER)) == 20)
        assert (
            serving.runner.problem()
            == f"'publish answers to {JOB}' fails and is retried: not authorized to write to {JOB}"
        )
        assert serving.runner.room() > 0
        assert committed(b) == 0
        denied.clear()
        await settled(b, 41)
        assert list(answers(b)) == ["a"]
        assert serving.runner.problem() == ""


async def test_a_topic_that_may_not_be_created_is_asked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as b:
        serving = await b.serve()
        denied, right = [True], b.bus.ensure_topic

        async def ensure(topic: str, partitions: int, *, compacted: bool = False) -> int:
            if denied and ".results." in topic:
                raise Unavailable(f"not authorized to create {topic}")
            return await right(topic, partitions, compacted=compacted)

        monkeypatch.setattr(b.bus, "ensure_topic", ensure)
        await sent(b, "a", 1)
        await until(lambda: "not authorized to create" in serving.runner.problem())
        denied.clear()
        await settled(b, 1)
        assert list(answers(b)) == ["a"]


async def test_a_topic_that_was_deleted_is_created_again() -> None:
    async with bench() as b:
        await b.serve()
        await sent(b, "a", 1)
        await settled(b, 1)
        lost = [NotFound("there is no such topic")]
        Publishing(b, lambda topic, records: lost.pop() if lost else None)
        del b.broker.topics[JOB]
        await sent(b, "b", 2)
        await settled(b, 2)
        assert list(answers(b)) == ["b"]


async def test_answers_that_no_topic_takes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "MAX_WAITING", 5)
    async with bench() as b:
        serving = await b.serve()
        publishing = Publishing(b, well)
        publishing.gate.clear()
        for number in range(40):
            await sent(b, f"row-{number}", number)
        await until(lambda: serving.runner.room() == 0 and serving.runner.in_flight >= 5)
        await turn_of_the_loop()
        assert serving.runner.in_flight < 40
        publishing.gate.set()
        await settled(b, 40)
        assert len(on_topic(b)) == 40


async def test_a_worker_creates_a_bounded_number_of_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_writer, "MAX_CREATED", 3)
    async with bench() as b:
        await b.serve()
        await b.bus.ensure_topic(NAMES.results_topic("mine"), 1)
        for number in range(8):
            await sent(b, f"row-{number}", number, reply_to=NAMES.reply_to_topic(f"job{number}"))
        await sent(b, "mine", 9, reply_to=NAMES.reply_to_topic("mine"))
        await settled(b, 9)
        made = [topic for topic in b.broker.topics if ".results." in topic]
        assert len(made) == 4
        assert list(answers(b, NAMES.results_topic("mine"))) == ["mine"]
        for number in range(3, 8):
            (state,) = await b.store.look([f"row-{number}"])
            assert state is not None
            assert state.payload, "it stays in the store"


async def test_few_idle_topics_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "MAX_KNOWN", 3)
    async with bench() as b:
        serving = await b.serve()
        for number in range(10):
            await sent(b, f"row-{number}", number, reply_to=NAMES.reply_to_topic(f"job{number}"))
            await settled(b, number + 1)
        assert len(serving.runner._writer.topics._writers) <= 4
        assert serving.runner._writer.topics.pending == 0
        assert serving.runner._writer.topics._bytes == 0


async def test_an_answer_too_large_for_its_topic_is_a_failure_there_and_the_others_are_answers() -> None:
    async with bench() as b:
        await b.serve()

        def small(topic: str, records: Sequence[OutRecord]) -> Exception | None:
            return TooLarge("max.message.bytes") if sum(len(record.value) for record in records) > 400 else None

        publishing = Publishing(b, small)
        await b.hold()
        await sent(b, "large", *range(100))
        for number in range(6):
            await sent(b, f"row-{number}", number)
        b.instances[0].gate.set()
        await settled(b, 8)
        assert len(publishing.records) == 7
        failure = answers(b)["large"].failure
        assert failure is not None
        assert failure.code is Code.TOO_LARGE
        assert "max.message.bytes" in failure.message
        assert all(reply.failure is None for name, reply in answers(b).items() if name != "large")


async def test_a_topic_that_is_mended_while_two_partitions_ask_takes_answers_again() -> None:
    """The first partition finds it mended while a refusal is on its way to the second: no later answer is a failure unasked."""
    async with bench() as b:
        serving = await b.serve()
        await b.bus.ensure_topic(JOB, 2)
        right, phase = b.bus.publish, {"mended": False}
        asked: dict[int | None, int] = {0: 0, 1: 0}
        second_asked, first_answered = asyncio.Event(), asyncio.Event()

        async def publish(topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
            if ".results." not in topic:
                return await right(topic, records, partition)
            if not phase["mended"]:
                raise TooLarge("max.message.bytes")
            asked[partition] += 1
            if partition == 0 and asked[0] == 1:
                await second_asked.wait()
                raise TooLarge("max.message.bytes")
            if partition == 1 and asked[1] <= 2:
                if asked[1] == 2:  # one answer alone, after all of them
                    second_asked.set()
                    await first_answered.wait()
                raise TooLarge("max.message.bytes")
            published = await right(topic, records, partition)
            first_answered.set()
            return published

        b.bus.publish = publish  # type: ignore[method-assign]
        names = [f"row-{number}" for number in range(40)]
        first = [name for name in names if partition_of(name.encode(), 2) == 0][:1]
        second = [name for name in names if partition_of(name.encode(), 2) == 1][:3]
        await b.hold()
        for number, name in enumerate([*first, *second]):
            await sent(b, name, number)
        b.instances[0].gate.set()
        await until(lambda: "not even a failure fits" in serving.runner.problem(), "the refusals to be told")
        phase["mended"] = True
        await settled(b, 5)
        failed = [name for name, reply in answers(b).items() if reply.failure is not None]
        assert len(failed) == 2, "those that were refused, one of each partition"


# --- crashes -----------------------------------------------------------------------------------------------------------


async def crash(b: Bench) -> Any:
    """The worker dies; another one takes over."""
    b.serving[0].abandon()
    await b.bus.evict(TOPIC, ["w"])
    return await b.serve(worker="w2")


async def test_a_crash_between_the_store_and_the_topic_loses_nothing_and_runs_nothing_twice() -> None:
    async with bench() as b:
        await b.serve()
        publishing = Publishing(b, well)
        publishing.gate.clear()
        await sent(b, "a", 1)
        await until(lambda: b.server.fences.look("a", 0.0) is not None)
        (stored,) = await b.store.look(["a"])
        second = await crash(b)
        publishing.gate.set()
        await settled(b, 1)
        (record,) = on_topic(b)
        assert answers(b)["a"].outputs[0].array().tolist() == [[1.0]]
        assert stored is not None
        assert record.key == b"a"
        assert second.statistics.already_answered == 1
        assert b.instances[1].batches == []


@pytest.mark.parametrize("accept", [b"application/json", b"application/msgpack"])
async def test_a_crash_between_the_topic_and_the_trim_publishes_the_same_bytes_again(accept: bytes) -> None:
    async with bench() as b:
        await b.serve()
        held = asyncio.Event()

        async def trim(refs: Sequence[str]) -> None:
            await held.wait()

        b.store.trim = trim  # type: ignore[attr-defined]
        await send(b, body(1), JSON, ("id", b"a"), ("accept", accept))
        await until(lambda: len(on_topic(b)) == 1)
        del b.store.trim  # type: ignore[attr-defined]
        assert committed(b) == 0
        await crash(b)
        await settled(b, 1)
        first, second = on_topic(b)
        assert (first.key, bytes(first.value), list(first.headers)) == (
            second.key,
            bytes(second.value),
            list(second.headers),
        )
        assert b.instances[1].batches == []


async def test_a_crash_between_the_trim_and_the_commit_publishes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as b:
        first = await b.serve()
        monkeypatch.setattr(first.intake._commits, "done", lambda entries: None)
        await sent(b, "a", 1)
        await until(lambda: first.runner.in_flight == 0 and len(on_topic(b)) == 1)
        assert committed(b) == 0
        await crash(b)
        await settled(b, 1)
        assert len(on_topic(b)) == 1
        assert b.instances[1].batches == []


async def test_a_zombies_answer_is_not_the_one_on_the_topic() -> None:
    async with bench() as b:
        await b.serve()
        b.instances[0].gate.clear()
        await send(b, body(1), JSON, ("id", b"a"), ("accept", b"application/msgpack"))
        await b.instances[0].started()
        await b.bus.evict(TOPIC, ["w"])
        await b.serve(worker="w2")
        await until(lambda: len(on_topic(b)) == 1)
        b.instances[0].gate.set()
        await until(lambda: b.serving[0].runner.in_flight == 0)
        assert [decode_answer(record)[1].timing.worker for record in on_topic(b)] == ["w2"]


async def test_what_the_store_has_first_is_published_even_if_another_wrote_it() -> None:
    async with bench() as b:
        await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        await sent(b, "a", 1)
        await instance.started()
        reply = InferReply("m", "1", "of another worker")
        await b.store.finish([Terminal("a", reply, ttl=60.0, to_topic=True)])
        instance.gate.set()
        await settled(b, 1)
        assert answers(b)["a"].label == "of another worker"


async def test_an_answer_that_expired_between_two_looks_is_a_failure_and_not_silence() -> None:
    async with bench() as b:
        await b.serve()
        await sent(b, "a", 1)
        await settled(b, 1)
        del b.broker.topics[JOB]
        b.server.fences = type(b.server.fences)()
        writer = b.serving[0].runner._writer
        request = b.caller.request(1, id="b", reply_to=REPLY_TO)
        entry = b.serving[0].intake._decoder.decode_record(Record(TOPIC, 0, 5, 1.0, *encode_request(request)), 0, 1.0)
        writer.settle_answered([entry])
        await until(lambda: JOB in b.broker.topics and len(on_topic(b)) == 1)
        failure = answers(b)["b"].failure
        assert failure is not None
        assert failure.code is Code.UNAVAILABLE


# --- failures ----------------------------------------------------------------------------------------------------------


def code(b: Bench, name: str) -> Code | None:
    failure = answers(b)[name].failure
    return None if failure is None else failure.code


async def test_a_bad_record_is_answered_on_its_topic_and_dead_lettered_and_holds_up_nothing() -> None:
    async with bench() as b:
        serving = await b.serve()
        await send(b, b"\xc1", ("id", b"msgpack"))
        await send(b, b"{", JSON, ("id", b"json"))
        await send(b, b"{", JSON)
        await send(b, body(1), JSON, ("id", b"accept"), ("accept", b"text/html"))
        await send(b, body(1), JSON, ("id", b"deadline"), ("deadline", b"soon"))
        await sent(b, "shape", 1, 2)
        await send(b, body(1).replace(b'"X"', b'"Z"'), JSON, ("id", b"name"))
        await sent(b, "good", 1)
        await settled(b, 8)

        default = f"{TOPIC}-0-2-1700000000250"
        bad = ["msgpack", "json", default, "accept", "deadline", "name"]
        assert {name: code(b, name) for name in bad} == dict.fromkeys(bad, Code.INVALID_ARGUMENT)
        assert (code(b, "shape"), code(b, "good")) == (None, None)
        assert serving.statistics.dead_letters["undecodable"] == 5
        kinds = {dict(record.headers)["id"]: dict(record.headers)["content-type"] for record in on_topic(b)}
        assert kinds[b"msgpack"] == b"application/msgpack"
        assert kinds[b"json"] == kinds[b"accept"] == kinds[default.encode()] == b"application/json"
        assert all(
            dict(r.headers).get("error") == b"INVALID_ARGUMENT" for r in on_topic(b) if dict(r.headers)["id"] in bad
        )


async def test_late_cancelled_and_defective_requests_are_answered_on_their_topic() -> None:
    async with bench() as b:
        serving = await b.serve(IMPATIENT)
        first = await b.hold()
        await sent(b, "expired", 1)
        await until(lambda: "expired" in answers(b))
        await send(b, body(1), JSON, ("id", b"late"), ("deadline", b"1"))
        await send(b, body(2), JSON, ("id", b"cancelled"))
        await until(lambda: "cancelled" in serving.runner._entries)
        await b.caller.transport.results.cancel(NAMES.cancel_channel(TOPIC), [Cancel("cancelled", 2e9)])
        b.instances[0].gate.set()
        await asyncio.gather(*first)
        await settled(b, 4)
        assert code(b, "expired") is Code.UNAVAILABLE
        assert code(b, "late") is Code.DEADLINE_EXCEEDED
        assert code(b, "cancelled") is Code.CANCELLED


async def test_a_request_that_is_given_up_is_answered_on_its_topic() -> None:
    async with bench() as b:
        serving = await b.serve()
        right = serving.runner.add

        def add(entry: Any) -> None:
            if entry.ref == "odd":
                raise RuntimeError("a defect of the worker")
            right(entry)

        serving.runner.add = add  # type: ignore[method-assign]
        await sent(b, "odd", 1)
        await sent(b, "good", 1)
        await settled(b, 2)
        assert (code(b, "odd"), code(b, "good")) == (Code.INTERNAL, None)


async def test_a_model_that_fails_is_told_on_the_topic() -> None:
    async with bench() as b:
        await b.serve()
        b.instances[0].error = ValueError("no")
        await sent(b, "a", 1)
        await settled(b, 1)
        assert code(b, "a") is Code.MODEL_FAILED


async def test_an_id_runs_again_after_a_failure_that_another_time_may_mend() -> None:
    async with bench() as b:
        await b.serve()
        await send(b, body(1), JSON, ("id", b"a"), ("deadline", b"1"))
        await settled(b, 1)
        assert code(b, "a") is Code.DEADLINE_EXCEEDED
        await sent(b, "a", 1)
        await settled(b, 2)
        assert code(b, "a") is None


async def test_an_id_that_was_answered_is_answered_no_second_time_whatever_its_body() -> None:
    async with bench() as b:
        await b.serve()
        await sent(b, "a", 1)
        await settled(b, 1)
        await sent(b, "a", 2)
        await settled(b, 2)
        assert len(on_topic(b)) == 1
        assert answers(b)["a"].outputs[0].array().tolist() == [[1.0]]


# --- strangers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply_to",
    [
        "kafka:other.results.job", "kafka:test.results.a.b", "kafka:test.results.", "kafka:test.infer.m.1", "kafka:",
        "kafka:test.results.job\n", "kafka:test.results.\0", "test.results.job", "kafka:test.results." + "x" * 200,
    ],
)  # fmt: skip
async def test_any_other_topic_is_ignored_and_the_answer_is_in_the_store(reply_to: str) -> None:
    async with bench() as b:
        await b.serve()
        before = set(b.broker.topics)
        await sent(b, "a", 1, reply_to=reply_to)
        await settled(b, 1)
        assert set(b.broker.topics) == before | {TOPIC}
        (state,) = await b.store.look(["a"])
        assert state is not None
        assert state.payload


async def test_a_reply_to_of_a_megabyte_is_a_dead_letter_and_the_answer_is_in_the_store() -> None:
    async with bench() as b:
        serving = await b.serve()
        await sent(b, "a", 1, reply_to="kafka:test.results." + "x" * 1_000_000)
        await settled(b, 1)
        assert serving.statistics.dead_letters["undecodable"] == 1
        (state,) = await b.store.look(["a"])
        assert state is not None
        assert state.payload


@pytest.mark.parametrize("name", ["a\nb", "\0", "é" * 100, "a/b/../c", "%2F", " "])
async def test_any_id_is_a_key_and_comes_back_as_it_was(name: str) -> None:
    async with bench() as b:
        await b.serve()
        await sent(b, name, 1)
        await settled(b, 1)
        assert list(answers(b)) == [name]


async def test_a_stopped_worker_waits_for_its_topics() -> None:
    async with bench() as b:
        serving = await b.serve()
        publishing = Publishing(b, well)
        publishing.gate.clear()
        await sent(b, "a", 1)
        await until(lambda: serving.runner._writer.topics.pending == 1)
        assert not await serving.finish(0.01)
        publishing.gate.set()
        assert await serving.finish(5.0)
        assert list(answers(b)) == ["a"]


async def test_a_store_that_cannot_trim_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def trim(self: MemoryStore, refs: Sequence[str]) -> None:
        raise Unavailable("the store is away")

    async with bench() as b:
        await b.serve()
        monkeypatch.setattr(MemoryStore, "trim", trim)
        await sent(b, "a", 1)
        await settled(b, 1)
        assert list(answers(b)) == ["a"]
