"""A worker on an embedded bus: it takes batch records and publishes answers, as the real one does."""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import Callable

import numpy as np

from protocol import codec
from protocol.errors import Code
from protocol.heartbeat_codec import encode_announcement
from protocol.messages import Announcement, Failure, InferReply, ModelState
from protocol.model_config import ModelConfig
from protocol.naming import Names
from protocol.ports import Bus, OutRecord
from protocol.ports import Record as BusRecord
from protocol.tensors import from_array

POISON = 13.0
DOUBLE = ModelConfig.from_json(
    {
        "name": "double", "backend": "python", "max_batch_size": 8,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2]}],
        "instance_group": [{"kind": "KIND_CPU"}],
    }
)  # fmt: skip
"""Doubles; a row with 13 in it makes the model fail."""


async def announce(bus: Bus, names: Names, config: ModelConfig = DOUBLE, partitions: int = 2) -> None:
    """Write the model into the catalogue."""
    await bus.ensure_topic(names.catalogue_topic, 1, compacted=True)
    entry = Announcement(config.name, "1", ModelState.READY, config.to_json(), "d", partitions=partitions)
    key, value = encode_announcement(entry)
    await bus.publish(names.catalogue_topic, [OutRecord(value, (), key)])


class FakeFleet:
    """Answers the records of one batch topic.

    Args:
        bus: open.
        names: the fleet's.
        rng: decides on duplicates and on the order of answers.
        before: called before each answer, for interruptions.
    """

    def __init__(
        self, bus: Bus, names: Names, rng: random.Random | None = None, before: Callable[[], None] = lambda: None
    ) -> None:
        self._bus, self._names, self._rng, self._before = bus, names, rng or random.Random(0), before
        self.rows: collections.Counter[float] = collections.Counter()
        self.ids: collections.Counter[str] = collections.Counter()
        self._task: asyncio.Task[None] | None = None
        self._held: list[tuple[str, OutRecord]] = []

    async def start(self) -> None:
        topic = self._names.batch_topic("double", "1")
        await self._bus.ensure_topic(topic, 2)
        self._task = asyncio.get_running_loop().create_task(self._work(topic))

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self, topic: str) -> None:
        async for records in self._bus.follow(topic):
            for record in records:
                self._held.append(self._answered(record))
                if self._rng.random() < 0.3:
                    self._held.append(self._held[-1])
            self._rng.shuffle(self._held)
            while self._held:
                self._before()
                where, answer = self._held.pop()
                await self._bus.ensure_topic(where, 1)
                await self._bus.publish(where, [answer])
                await asyncio.sleep(0)

    def _answered(self, record: BusRecord) -> tuple[str, OutRecord]:
        request = codec.decode_request(
            record.value, record.headers, model="double", version="1", default_id="none", timestamp=record.timestamp
        )
        self.ids[request.id] += 1
        rows = request.inputs[0].array()
        self.rows.update(rows[:, 0].tolist())
        if (rows == POISON).any():
            reply = InferReply("double", "1", failure=Failure(Code.MODEL_FAILED, "thirteen"))
        else:
            reply = InferReply("double", "1", outputs=(from_array("Y", np.asarray(rows * 2)),))
        headers = [("id", request.id.encode()), ("content-type", b"application/msgpack")]
        where = self._names.reply_topic(request.reply_to)
        return where, OutRecord(codec.encode_reply(reply), headers, request.id.encode())
