"""Through a gateway: each record is one call in the batch lane, with its id as `Idempotency-Key`.

So a call that is repeated, after a lost connection or a kill, attaches to the first one or gets its answer: nothing runs twice as
long as the gateway keeps answers (`--result-ttl`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from penstock.batch.backends import Events, Served
from penstock.batch.journal import Saved
from penstock.batch.records import Record
from penstock.batch.spans import Spans
from penstock.batch.threads import apart
from penstock.client import AsyncClient, Client, InferResult
from protocol.errors import RETRYABLE, Code, FleetError, NotFound, quoted
from protocol.messages import Failure, InferReply, Lane
from protocol.model_config import ModelConfig
from protocol.suggestions import did_you_mean
from protocol.tensors import from_array

log = logging.getLogger(__name__)

CALLS: Final = 16
"""Calls in flight."""
DEADLINE: Final = 3600.0
"""Seconds that a call may take; a later one is made again under its key."""
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0
"""Seconds before a call is made again."""
GIVE_UP: Final = 300.0
"""Seconds of failures of one call after which the job stops."""
_FATAL: Final = frozenset({Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.NOT_FOUND})
"""They would fail every other record, too."""


class HttpBackend:
    """See the module.

    Args:
        url, api_key: of the gateway.
    """

    def __init__(self, url: str, api_key: str = "") -> None:
        self.where: dict[str, Any] = {"url": url}
        self._url, self._key = url, api_key
        self._client: AsyncClient | None = None
        self._queue: deque[Record] = deque()
        self._waiting = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._calling: dict[str, Record] = {}

    async def open(self) -> None:
        """See `Backend.open`."""
        self._client = AsyncClient(self._url, api_key=self._key, connections=CALLS)

    async def find(self, model: str, version: str) -> Served:
        """See `Backend.find`."""
        return await apart(lambda: self._find(model, version))

    def _find(self, model: str, version: str) -> Served:
        with Client(self._url, api_key=self._key) as client:
            if not version:
                ready = [entry for entry in client.models() if entry.get("state") == "READY"]
                versions = [entry["version"] for entry in ready if entry.get("name") == model]
                if not versions:
                    meant = did_you_mean(model, (entry["name"] for entry in ready))
                    advice = meant or "; penstock models lists those that are"
                    raise NotFound(f"model {quoted(model)} is not ready at {self._url}{advice}")
                version = max(versions, key=int)
            path = f"/v2/models/{quote(model, safe='')}/versions/{quote(version, safe='')}/config"
            return Served(version, ModelConfig.from_json(client.get(path)))

    async def begin(self, run: str, served: Served) -> Mapping[int, int]:
        """See `Backend.begin`."""
        return {}

    async def start(self, run: str, served: Served, saved: Saved, events: Events, *, awaits: bool) -> set[str]:
        """See `Backend.start`."""
        self._served = served
        if awaits:  # an answer comes to a call only: what was sent and is not done is called again, under its key
            saved.known.sent, saved.known.alone, saved.known.logged = Spans(), Spans(), set()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._call_all(events, awaits=awaits)) for _ in range(CALLS)]
        events.caught_up()
        return set()

    def send(self, records: Sequence[Record]) -> None:
        """See `Backend.send`."""
        self._queue.extend(records)
        self._waiting.set()

    def places(self) -> Mapping[int, int]:
        """See `Backend.places`."""
        return {}

    async def _call_all(self, events: Events, *, awaits: bool) -> None:
        while True:
            while not self._queue:
                self._waiting.clear()
                await self._waiting.wait()
            record = self._queue.popleft()
            self._calling[record.id] = record
            try:
                reply = await self._call(record, awaits=awaits)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                events.broken(error)
                return
            del self._calling[record.id]
            if reply is None:
                events.logged([record])
            else:
                events.answer(record.id, reply, None)

    async def _call(self, record: Record, *, awaits: bool) -> InferReply | None:
        """The answer; None if it is not waited for. Repeats the call while the gateway is busy or away.

        Raises:
            FleetError: it stays so, or every other call would fail, too.
        """
        loop = asyncio.get_running_loop()
        begun, pause = loop.time(), FIRST_PAUSE
        while True:
            try:
                return await self._call_once(record, awaits=awaits)
            except FleetError as error:
                if error.code in _FATAL:
                    raise
                if error.code not in RETRYABLE:
                    return _failed(self._served, error)
                if loop.time() - begun > GIVE_UP:
                    raise
                log.info("%s is sent again in %.2f s: %s", record.id, pause, error.message)
                await asyncio.sleep(max(pause, min(error.retry_after or 0.0, LONGEST_PAUSE)))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _call_once(self, record: Record, *, awaits: bool) -> InferReply | None:
        assert self._client is not None
        model, inputs = self._served.config.name, {tensor.name: tensor for tensor in record.tensors}
        if not awaits:
            await self._client.submit(model, inputs, **self._options(record))
            return None
        return _reply(await self._client.infer(model, inputs, timeout=DEADLINE, **self._options(record)))

    def _options(self, record: Record) -> dict[str, Any]:
        return {"version": self._served.version, "idempotency_key": record.id, "lane": Lane.BATCH.value}

    async def cancel(self) -> int:
        """See `Backend.cancel`: asks for the handle of each call in flight, and cancels it."""
        assert self._client is not None
        self._queue.clear()
        await self._stop()
        records = list(self._calling.values())
        for record in records:
            with contextlib.suppress(FleetError):
                inputs = {tensor.name: tensor for tensor in record.tensors}
                pending = await self._client.submit(self._served.config.name, inputs, **self._options(record))
                await self._client.cancel(pending)
        return len(records)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._stop()
        if self._client is not None:
            await self._client.close()


def _failed(served: Served, error: FleetError) -> InferReply:
    return InferReply(served.config.name, served.version, failure=Failure(error.code, error.message))


def _reply(result: InferResult) -> InferReply:
    outputs = tuple(from_array(name, array, result.datatypes.get(name)) for name, array in result.outputs.items())
    return InferReply(result.model, result.version, outputs=outputs)
