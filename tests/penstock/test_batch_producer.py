"""`BatchProducer` and `read_results` on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from infra.local.kafka import Broker
from penstock import BatchProducer, read_results
from penstock.client import Answer, Delivery
from protocol.answers import encode_answer
from protocol.codec import JSON, decode_request, encode_reply
from protocol.errors import Code, FleetError, InvalidArgument, NotFound, TooLarge, Unavailable
from protocol.frames import MAX_RECORD
from protocol.messages import Failure, InferReply, InferRequest, Lane
from protocol.naming import Names
from protocol.ports import Bus, OutRecord, Record
from protocol.tensors import Tensor, from_array
from protocol.transport import open_bus
from protocol.transport.settings import TransportSettings

X = {"X": np.arange(4, dtype=np.float32)[None]}
pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


async def opened(kafka: str, prefix: str) -> Bus:
    bus = open_bus(TransportSettings(kafka=kafka, prefix=prefix, bus_only=True))
    await bus.open()
    return bus


async def log_of(kafka: str, prefix: str, topic: str) -> dict[tuple[int, int], Record]:
    """Every record of a topic, by place."""
    bus, found = await opened(kafka, prefix), dict[tuple[int, int], Record]()
    try:
        async for records in bus.follow(topic):
            found.update({(record.partition, record.offset): record for record in records})
            if not records:
                return found
    finally:
        await bus.close()
    return found


def request_of(record: Record) -> InferRequest:
    return decode_request(
        record.value, record.headers, model="m", version="1", default_id="?", timestamp=record.timestamp
    )


async def test_requests_are_in_the_log_as_the_workers_read_them(kafka_bootstrap: str, prefix: str) -> None:
    told: list[Delivery] = []
    async with BatchProducer(
        kafka_bootstrap, prefix=prefix, results="night-run", accept="json", on_delivery=told.append
    ) as producer:
        changed = X["X"].copy()
        await producer.send("m", {"X": changed}, id="one", outputs=["Y"], deadline=2e9)
        changed[:] = 7  # it was copied
        texts = {"T": np.array([["hi"]]), "B": from_array("B", np.zeros(1, np.uint16), "BF16")}
        await producer.send("m", texts, id="two", label="l", parameters={"k": 1})
        made = await producer.send("m", {"X": [[1, 2]], "E": np.zeros((0, 2), ">i4")})
        await producer.send_request(InferRequest("four", "m", "1", (from_array("X", X["X"]),)))
        await producer.flush()
        assert (producer.delivered, producer.failed, producer.buffered_bytes) == (4, 0, 0)

    names = Names(prefix)
    log = await log_of(kafka_bootstrap, prefix, names.batch_topic("m", "1"))
    requests = {request.id: request for request in map(request_of, log.values())}
    assert {delivery.id for delivery in told} == {"one", "two", made, "four"} == set(requests)
    assert all(request_of(log[delivery.partition, delivery.offset]).id == delivery.id for delivery in told)
    assert {request.reply_to for request in requests.values()} == {f"kafka:{prefix}.results.night-run"}
    assert {request.accept for request in requests.values()} == {JSON.decode()}
    assert all(abs(request.accepted - time.time()) < 60 for request in requests.values())
    one, two, three = requests["one"], requests["two"], requests[made]
    assert (one.outputs, one.deadline, one.inputs[0].array().tolist()) == (("Y",), 2e9, X["X"].tolist())
    assert (two.label, two.parameters) == ("l", {"k": 1})
    assert [(t.name, t.datatype) for t in two.inputs] == [("T", "BYTES"), ("B", "BF16")]
    assert [(t.datatype, t.shape) for t in three.inputs] == [("INT64", (1, 2)), ("INT32", (0, 2))]
    bus = await opened(kafka_bootstrap, prefix)
    assert await bus.partitions(names.batch_topic("m", "1")) == 4
    assert await bus.partitions(names.results_topic("night-run")) == 1
    await bus.close()


async def test_the_interactive_lane_and_no_topic_of_answers(kafka_bootstrap: str, prefix: str) -> None:
    async with BatchProducer(kafka_bootstrap, prefix=prefix, lane=Lane.INTERACTIVE, partitions=2) as producer:
        await producer.send("m", X, id="one")

    (record,) = (await log_of(kafka_bootstrap, prefix, Names(prefix).infer_topic("m", "1"))).values()
    assert [name for name, _ in record.headers] == ["id"]


async def test_what_is_wrong_is_refused_and_buffers_nothing(kafka_bootstrap: str, prefix: str) -> None:
    for wrong in ({"accept": "xml"}, {"results": "a b"}, {"partitions": 0}, {"prefix": "P"}):
        with pytest.raises(InvalidArgument):
            BatchProducer(kafka_bootstrap, **wrong)  # type: ignore[arg-type]
    producer = BatchProducer(kafka_bootstrap, prefix=prefix)
    with pytest.raises(InvalidArgument, match="not open"):
        await producer.send("m", X)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"id": "x" * 257}, "256"),
        ({"id": "\ud800"}, "Unicode"),
        ({"version": "one"}, "version"),
        ({"parameters": {"triton_x": 1}}, "triton_"),
    ]
    async with producer:
        with pytest.raises(InvalidArgument, match="open already"):
            await producer.open()
        for options, text in cases:
            with pytest.raises(InvalidArgument, match=text):
                await producer.send("m", X, **options)
        with pytest.raises(InvalidArgument, match="no V2 datatype"):
            await producer.send("m", {"X": np.zeros(1, np.complex64)})
        with pytest.raises(TooLarge):
            await producer.send("m", {"X": np.zeros(MAX_RECORD, np.uint8)})
        assert producer.buffered_bytes == 0
        await asyncio.to_thread(asyncio.run, sent_elsewhere(producer))
    with pytest.raises(InvalidArgument, match="not open"):
        await producer.send("m", X)
    await producer.close()


async def sent_elsewhere(producer: BatchProducer) -> None:
    with pytest.raises(InvalidArgument, match="another event loop"):
        await producer.send("m", X)


async def test_a_broker_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 did not answer"):
        await BatchProducer("127.0.0.1:1", connect_timeout=0.3).open()


async def test_a_full_buffer_holds_back_the_caller(own_kafka: Broker, prefix: str) -> None:
    async with BatchProducer(own_kafka.bootstrap, prefix=prefix, max_buffered_bytes=200_000) as producer:
        most = 0
        for number in range(3000):
            await producer.send("m", {"X": np.zeros(100, np.float32)}, id=str(number))
            most = max(most, producer.buffered_bytes)
        await producer.send("m", {"X": np.zeros(300_000, np.uint8)})  # larger than the buffer: it goes alone

    assert most <= 200_000
    assert producer.delivered == 3001


@pytest.mark.slow
async def test_the_broker_is_killed_in_the_middle(own_kafka: Broker, prefix: str) -> None:
    """Every record is told once, and what is told as delivered is in the log at its place."""
    told: list[Delivery] = []
    count, killed = 30_000, False
    async with BatchProducer(
        own_kafka.bootstrap, prefix=prefix, max_buffered_bytes=2_000_000, on_delivery=told.append, delivery_timeout=60
    ) as producer:
        for number in range(count):
            if number == count // 2:
                await asyncio.to_thread(own_kafka.kill)
                killed = True
                restarting = asyncio.get_running_loop().create_task(asyncio.to_thread(own_kafka.start))
            await producer.send("m", X, id=str(number))
        await producer.flush()
        await restarting

    assert killed
    log = await log_of(own_kafka.bootstrap, prefix, Names(prefix).batch_topic("m", "1"))
    ids = {place: dict(record.headers)["id"].decode() for place, record in log.items()}  # type: ignore[union-attr]
    assert Counter(delivery.id for delivery in told) == Counter(map(str, range(count)))
    delivered = [delivery for delivery in told if delivery.error is None]
    assert all(ids[delivery.partition, delivery.offset] == delivery.id for delivery in delivered)
    assert len(delivered) == count, Counter(str(delivery.error) for delivery in told)


async def test_a_broker_that_stays_away_fails_every_record(own_kafka: Broker, prefix: str) -> None:
    told: list[Delivery] = []
    producer = BatchProducer(own_kafka.bootstrap, prefix=prefix, on_delivery=told.append)
    await producer.open()
    await producer.send("m", X, id="before")
    await producer.flush()
    await asyncio.to_thread(own_kafka.kill)
    for number in range(1000):
        await producer.send("m", X, id=str(number))
    await producer.close(timeout=1.0)

    assert Counter(delivery.id for delivery in told) == Counter(["before", *map(str, range(1000))])
    assert [delivery.id for delivery in told if delivery.error is None] == ["before"]


# --- reading answers ---


def answer(name: str, accept: str, failure: Failure | None = None) -> OutRecord:
    request = InferRequest(name, "m", "1", (), accept=accept)
    outputs: tuple[Tensor, ...] = () if failure else (from_array("Y", np.array([[1.5, 2]], np.float32)),)
    return encode_answer(encode_reply(InferReply("m", "1", "l", outputs, {"k": 1}, failure)), request)


async def read(kafka: str, prefix: str, **options: Any) -> list[Answer]:
    return [one async for one in read_results(kafka, "run", prefix=prefix, until_end=True, **options)]


async def test_answers_in_both_forms_errors_and_what_is_no_answer(kafka_bootstrap: str, prefix: str) -> None:
    bus, topic = await opened(kafka_bootstrap, prefix), Names(prefix).results_topic("run")
    await bus.ensure_topic(topic, 1)
    failure = Failure(Code.MODEL_FAILED, "it raised")
    records = [answer("a", ""), answer("b", "application/json"), answer("c", "", failure),
               answer("d", "application/json", failure), OutRecord(b"hello")]  # fmt: skip
    await bus.publish(topic, records)
    await bus.close()

    found = await read(kafka_bootstrap, prefix)

    assert [(one.id, one.partition, one.offset) for one in found] == [
        (name, 0, at) for at, name in enumerate("abcd")
    ] + [("", 0, 4)]
    for one in found[:2]:
        result = one.unwrap()
        assert result.outputs["Y"].tolist() == [[1.5, 2]]
        assert (result.model, result.label, result.parameters, result.datatypes) == ("m", "l", {"k": 1}, {"Y": "FP32"})
    for one in found[2:4]:
        with pytest.raises(FleetError, match="it raised") as caught:
            one.unwrap()
        assert caught.value.code is Code.MODEL_FAILED
    assert found[4].error is not None
    assert [one.id for one in await read(kafka_bootstrap, prefix, start={0: 3})] == ["d", ""]


async def test_a_topic_of_answers_that_is_not_there_is_named(kafka_bootstrap: str, prefix: str) -> None:
    with pytest.raises(NotFound, match=f"{prefix}.results.run"):
        await read(kafka_bootstrap, prefix)
