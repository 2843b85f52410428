"""`read_results`: the answers on a topic, as they come."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Mapping

from penstock.client.requests import InferResult
from protocol.answers import decode_answer
from protocol.errors import CodecError, FleetError, NotFound
from protocol.messages import InferReply
from protocol.naming import Names
from protocol.ports import Record
from protocol.transport import open_bus
from protocol.transport.settings import TransportSettings


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An answer from a topic: a result or an error.

    Attributes:
        id: the request's; "" if the record is not an answer, which `error` says.
        partition, offset: its place. To go on after it, start at `offset + 1`.
    """

    id: str
    partition: int
    offset: int
    result: InferResult | None = None
    error: FleetError | None = None

    def unwrap(self) -> InferResult:
        """The result.

        Raises:
            FleetError: the request's error.
        """
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


async def read_results(
    kafka: str,
    name: str,
    *,
    start: Mapping[int, int] | None = None,
    until_end: bool = False,
    prefix: str = "penstock",
    security: Mapping[str, str] | None = None,
) -> AsyncGenerator[Answer, None]:
    """Every answer on the topic `<prefix>.results.<name>`, from its start, then new ones as they come.

    An answer may come more than once, with the same bytes. Reads no further ahead than one fetch.

    Args:
        kafka: bootstrap servers, `HOST:PORT[,…]`.
        name: of the topic, as the producer's `results`.
        start: by partition, the first offset to read.
        until_end: stop at the end that the topic has when reading begins.
        prefix: of the fleet's topics.
        security: as `TransportSettings.kafka_security`.

    Raises:
        NotFound: there is no such topic.
        Unavailable: no broker answers.
    """
    topic = Names(prefix).results_topic(name)
    bus = open_bus(TransportSettings(kafka=kafka, prefix=prefix, kafka_security=dict(security or {}), bus_only=True))
    await bus.open()
    try:
        if not await bus.partitions(topic):
            raise NotFound(f"there is no topic {topic} at {kafka}: a BatchProducer with results={name!r} makes it")
        async for records in bus.follow(topic, start):
            if not records and until_end:
                return
            for record in records:
                yield _answer(record)
    finally:
        await bus.close()


def _answer(record: Record) -> Answer:
    try:
        request_id, reply = decode_answer(record)
        if reply.failure is not None:
            return Answer(request_id, record.partition, record.offset, error=reply.failure.error())
        return Answer(request_id, record.partition, record.offset, _result(request_id, reply))
    except CodecError as error:
        return Answer("", record.partition, record.offset, error=error)


def _result(request_id: str, reply: InferReply) -> InferResult:
    return InferResult(
        reply.model,
        reply.version,
        {tensor.name: tensor.array() for tensor in reply.outputs},
        reply.parameters,
        reply.label,
        request_id,
        datatypes={tensor.name: tensor.datatype for tensor in reply.outputs},
    )
