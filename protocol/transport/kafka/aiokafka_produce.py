"""Lone records past aiokafka's tasks. Like `aiokafka_internals`, this module may use aiokafka's private names.

Invariants:
- A batch is sent here if it and those before have one record each: few callers, each of whom waits for every turn of the event
  loop. With many callers a fast acknowledgement makes groups small, and all costs after it are mostly per group (decision 12).
- A batch with anything in its way (its broker or partition is busy, no open connection, an older broker) goes to aiokafka's queue.
- After any failure aiokafka's own code gets the batch, or the broker's error, and decides on retries, metadata and giving up.
- A broker has at most one request with batches in flight, here or there.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.produce import ProduceResponse_v7
from aiokafka.structs import RecordMetadata

from protocol.runtime.tasks import BackgroundTasks
from protocol.transport.kafka import wire
from protocol.transport.kafka.aiokafka_exchange import Answered, Exchange, open_connection

__all__ = ["DirectProducer"]

LONE: Final = 4
"""Batches of one record in a row, the last of which is sent at once."""


class _Batch(Exchange):
    """A batch on its way."""

    def __init__(self, sender: DirectProducer, node: int, place: TopicPartition, batch: MessageBatch) -> None:
        super().__init__()
        self.node = node
        self.place = place
        self.batch = batch
        self.topic = place.topic.encode()
        self.acknowledged: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self._sender = sender
        batch.future.add_done_callback(self._tell)

    def on_response(self, body: bytes) -> None:
        answer = wire.produced(body, self.topic)
        if answer.error:
            self._sender.hand_over(self, body)
        else:
            self._sender.free(self)
            self.batch.done(answer.offset, answer.time, answer.log_start)
            self._tell(self.batch.future)  # a turn earlier than by its callback

    def _tell(self, future: asyncio.Future[RecordMetadata]) -> None:
        """The batch was acknowledged, or given up. Its own future must not be cancelled by a caller: aiokafka waits for it."""
        error = future.exception()
        if self.acknowledged.done():
            return
        if error is None:
            self.acknowledged.set_result(future.result())
        else:
            self.acknowledged.set_exception(error)

    def on_error(self, error: BaseException) -> None:
        self._sender.hand_over(self, error)


class DirectProducer:
    """Sends lone records at once if nothing is in their way.

    Args:
        producer: idempotent, started; its sender gets every batch that failed here, to send it again or give it up.
    """

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._client: AIOKafkaClient = producer.client
        self._sender: Any = producer._sender
        self._waiting: Any = producer._message_accumulator
        self._timeout_ms: int = producer._request_timeout_ms
        self._lone = 0
        self._tasks = BackgroundTasks("Kafka producer")

    def send(self, builder: BatchBuilder, topic: str, partition: int) -> asyncio.Future[RecordMetadata] | None:
        """Send a batch; None if it must wait, and goes to the producer's own queue.

        Returns:
            The acknowledgement. Cancelling it does not cancel the batch.
        """
        self._lone = self._lone + 1 if builder.record_count() == 1 else 0
        if self._lone < LONE:
            return None
        place = TopicPartition(topic, partition)
        waiting, sender = self._waiting, self._sender
        if waiting._closed or waiting._exception or place in sender._muted_partitions or waiting._batches.get(place):
            return None
        node = self._client.cluster.leader_for_partition(place)
        if node in sender._in_flight:
            return None
        connection = open_connection(self._client, node, wire.PRODUCE)
        if connection is None:
            return None
        batch = MessageBatch(place, builder, waiting._batch_ttl, 0)
        waiting._batches[place].append(batch)
        waiting._pop_batch(place)  # gives it the next sequence numbers
        sender._muted_partitions.add(place)
        sender._in_flight.add(node)
        exchange = _Batch(self, node, place, batch)
        data = batch.get_data_buffer()
        exchange.send(connection, wire.PRODUCE, wire.produce(exchange.topic, partition, data, self._timeout_ms))
        return exchange.acknowledged

    def free(self, exchange: _Batch) -> None:
        """The partition, and its broker, may get the next batch."""
        self._sender._muted_partitions.discard(exchange.place)
        self._sender._in_flight.discard(exchange.node)
        if self._waiting._batches:
            self._waiting._wakeup(self._waiting.waiter())

    def hand_over(self, exchange: _Batch, outcome: bytes | BaseException) -> None:
        """Let aiokafka decide what becomes of a batch that was not acknowledged."""
        if not exchange.batch.future.done():
            self._tasks.spawn(self._hand_over(exchange, outcome))

    def close(self) -> None:
        """Hand nothing over any more."""
        self._tasks.cancel()

    async def _hand_over(self, exchange: _Batch, outcome: bytes | BaseException) -> None:
        handler = SendProduceReqHandler(self._sender, {exchange.place: exchange.batch})
        handler._client = Answered(self._client, ProduceResponse_v7, outcome)
        await handler.do(exchange.node)
        self.free(exchange)
