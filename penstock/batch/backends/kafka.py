"""Through the broker: records to the model version's batch topic, answers from the run's own topic.

Invariant: one group of records is in flight per partition. So the offset after the last acknowledged group bounds from below where
any other record of this run can be, and after a kill that tail of the topic says exactly which records are in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from penstock.batch.backends import Events, Served
from penstock.batch.journal import Saved
from penstock.batch.records import Record, parse_id
from protocol import codec
from protocol.answers import decode_answer
from protocol.errors import Code, CodecError, FleetError, NotFound, Unavailable, quoted
from protocol.heartbeat_codec import decode_announcement
from protocol.messages import Announcement, InferRequest, ModelState
from protocol.model_config import ModelConfig
from protocol.naming import Names, ref
from protocol.ports import Bus, Cancel, OutRecord, Results
from protocol.ports import Record as BusRecord

log = logging.getLogger(__name__)

GROUP_BYTES: Final = 1024 * 1024
GROUP_RECORDS: Final = 500
"""Bytes and records that are published at once."""
PAUSE: Final = 1.0
"""Seconds before the broker is asked again."""
GIVE_UP: Final = 300.0
"""Seconds without an acknowledgement after which the job stops."""


class KafkaBackend:
    """See the module.

    Args:
        bus: not yet open.
        names: the fleet's.
        results: for cancellations; opened when one is sent.
        clock: seconds since the epoch.
    """

    def __init__(
        self, bus: Bus, names: Names, results: Results | None, where: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._bus, self._names, self._results, self._clock = bus, names, results, clock
        self.where: dict[str, Any] = {"kafka": where, "prefix": names.prefix}
        self._queues: list[deque[Record]] = []
        self._turn = 0
        self._places: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: list[asyncio.Event] = []
        self._events: Events | None = None

    async def open(self) -> None:
        """See `Backend.open`."""
        await self._bus.open()

    async def find(self, model: str, version: str) -> Served:
        """See `Backend.find`."""
        found: dict[str, Announcement] = {}
        try:
            async for record in _there_now(self._bus, self._names.catalogue_topic):
                with contextlib.suppress(CodecError):
                    entry = decode_announcement(record.value)
                    if entry.model == model:
                        found[entry.version] = entry
        except NotFound:
            raise NotFound(
                f"no worker has ever announced a model under prefix '{self._names.prefix}': start one, or give --prefix"
            ) from None
        ready = [each for each in found.values() if each.state is ModelState.READY and version in ("", each.version)]
        if not ready:
            there = ", ".join(f"version {each.version} is {each.state.value}" for each in found.values())
            wanted = f"version {version} of " if version else ""
            raise NotFound(f"{wanted}model {quoted(model)} is not ready: {there or 'no worker has announced it'}")
        newest = max(ready, key=lambda each: int(each.version))
        return Served(newest.version, ModelConfig.from_json(newest.config), max(1, newest.partitions))

    async def begin(self, run: str, served: Served) -> Mapping[int, int]:
        """See `Backend.begin`."""
        topic = self._names.results_topic(run)
        if await self._bus.partitions(topic):
            async for _ in _there_now(self._bus, topic):
                raise FleetError(
                    f"topic {topic} holds answers of an earlier run that this machine does not know; give another --job, or "
                    "--force to run it under new ids",
                    code=Code.ALREADY_EXISTS,
                )
        await self._bus.ensure_topic(topic, 1)
        requests = self._topic(served)
        count = await self._bus.ensure_topic(requests, served.partitions)
        committed = await self._bus.committed(requests, requests)
        return {partition: committed.get(partition, 0) for partition in range(count)}

    def _topic(self, served: Served) -> str:
        return self._names.batch_topic(served.config.name, served.version)

    async def start(self, run: str, served: Served, saved: Saved, events: Events, *, awaits: bool) -> set[str]:
        """See `Backend.start`."""
        self._run, self._served, self._events = run, served, events
        self._places = dict(saved.places)
        topic = self._topic(served)
        count = await self._bus.ensure_topic(topic, served.partitions)
        await self._bus.ensure_topic(self._names.results_topic(run), 1)
        logged = await self._tail()
        self._queues, self._waiting = [deque() for _ in range(count)], [asyncio.Event() for _ in range(count)]
        spawn = asyncio.get_running_loop().create_task
        if awaits:
            self._tasks.append(spawn(self._guarded(self._follow(saved.answers))))
        self._tasks += [spawn(self._guarded(self._publish(partition))) for partition in range(count)]
        return logged

    async def _tail(self) -> set[str]:
        """The ids of this run's records from `places` on."""
        found: set[str] = set()
        topic = self._topic(self._served)
        async for record in _there_now(self._bus, topic, self._places):
            name = _id_of(record)
            if name and parse_id(self._run, name) and _reply_to(record) == self._names.reply_to_topic(self._run):
                found.add(name)
        return found

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            assert self._events is not None
            self._events.broken(error)

    # --- sending ---

    def send(self, records: Sequence[Record]) -> None:
        """See `Backend.send`."""
        for record in records:
            self._turn = (self._turn + 1) % len(self._queues)
            self._queues[self._turn].append(record)
            self._waiting[self._turn].set()

    def places(self) -> Mapping[int, int]:
        """See `Backend.places`."""
        return dict(self._places)

    async def _publish(self, partition: int) -> None:
        queue, waiting = self._queues[partition], self._waiting[partition]
        while True:
            while not queue:
                waiting.clear()
                await waiting.wait()
            await self._publish_group(partition, _group(queue))

    async def _publish_group(self, partition: int, group: list[Record]) -> None:
        """Publish until the broker has it; after a failure what is in the log already is not published again."""
        assert self._events is not None
        topic, begun, left = self._topic(self._served), time.monotonic(), group
        while left:
            try:
                published = await self._bus.publish(topic, [self._encoded(record) for record in left], partition)
            except Unavailable as error:
                if time.monotonic() - begun > GIVE_UP:
                    raise
                log.warning(
                    "%d records were not acknowledged, and are looked for in the log: %s", len(left), error.message
                )
                await asyncio.sleep(PAUSE)
                with contextlib.suppress(Unavailable):
                    there = await self._tail()
                    left = [record for record in left if record.id not in there]
                continue
            self._places[partition] = published.offset + len(left)
            left = []
        self._events.logged(group)

    def _encoded(self, record: Record) -> OutRecord:
        served, now = self._served, self._clock()
        request = InferRequest(record.id, served.config.name, served.version, record.tensors)
        request.reply_to = self._names.reply_to_topic(self._run)
        request.accept = codec.MSGPACK.decode()
        request.accepted = request.published = now
        value, headers = codec.encode_request(request)
        return OutRecord(value, headers)

    # --- answers ---

    async def _follow(self, start: Mapping[int, int]) -> None:
        assert self._events is not None
        async for records in self._bus.follow(self._names.results_topic(self._run), start):
            if not records:
                self._events.caught_up()
            for record in records:
                try:
                    name, reply = decode_answer(record)
                except CodecError as error:
                    log.warning("%s/%d/%d is no answer: %s", record.topic, record.partition, record.offset, error)
                    continue
                self._events.answer(name, reply, (record.partition, record.offset))
            await self._events.ready()

    # --- the end ---

    async def cancel(self) -> int:
        """See `Backend.cancel`: what the workers have not committed."""
        for queue in self._queues:
            queue.clear()
        if self._results is None:
            return 0
        topic = self._topic(self._served)
        self._places = {**dict.fromkeys(self._places, 0), **await self._bus.committed(topic, topic)}
        names = sorted(await self._tail())
        await self._results.open()
        try:
            until = await self._results.now()
            channel = self._names.cancel_channel(topic)
            for first in range(0, len(names), 1000):
                await self._results.cancel(
                    channel, [Cancel(ref("-", name), until) for name in names[first : first + 1000]]
                )
        finally:
            await self._results.close()
        return len(names)

    def use(self, run: str, served: Served) -> None:
        """For a run of which nothing is sent or awaited, only cancelled."""
        self._run, self._served = run, served

    async def close(self) -> None:
        """See `Backend.close`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bus.close()


def _group(queue: deque[Record]) -> list[Record]:
    """The first records of a queue, as many as are published at once."""
    group, size = [queue.popleft()], 0
    while queue and len(group) < GROUP_RECORDS:
        size += group[-1].size
        if size + queue[0].size > GROUP_BYTES:
            break
        group.append(queue.popleft())
    return group


def _id_of(record: BusRecord) -> str:
    return _header(record, "id")


def _reply_to(record: BusRecord) -> str:
    return _header(record, "reply-to")


def _header(record: BusRecord, wanted: str) -> str:
    if record.request is not None:
        return record.request.id if wanted == "id" else record.request.reply_to
    return next((value.decode(errors="replace") for name, value in record.headers if name == wanted and value), "")


async def _there_now(bus: Bus, topic: str, start: Mapping[int, int] | None = None) -> AsyncGenerator[BusRecord, None]:
    """The records of a topic when reading began, and perhaps a few more."""
    stream: AsyncIterator[Sequence[BusRecord]] = bus.follow(topic, start)
    try:
        async for records in stream:
            if not records:
                return
            for record in records:
                yield record
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
