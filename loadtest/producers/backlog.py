"""A backlog of batch requests on a fleet's batch topic, kept at a size while something else is measured.

Invariant: answers go to a topic of answers, so that the result store keeps only fences.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from loadtest.systems import System
from protocol import codec
from protocol.messages import InferRequest, Lane
from protocol.ports import OutRecord
from protocol.tensors import from_array
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings

PARTITIONS: Final = 4
_LOOK_EVERY: Final = 0.2


@contextlib.contextmanager
def backlog(system: System, model: str, arrays: Mapping[str, Any], records: int) -> Iterator[None]:
    """Keep at least `records` requests with these arrays unanswered until the block ends; then wait until they are answered."""
    ready, stop, failed = threading.Event(), threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            asyncio.run(_feed(system, model, arrays, records, ready, stop))
        except BaseException as exc:  # raised below, in the thread that measures
            failed.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="backlog")
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if failed:
            raise failed[0]


async def _feed(
    system: System, model: str, arrays: Mapping[str, Any], records: int, ready: threading.Event, stop: threading.Event
) -> None:
    settings = TransportSettings(kafka=system.kafka, redis=system.redis, prefix=system.prefix)
    names, run = settings.names, secrets.token_hex(4)
    topic = names.request_topic(model, "1", Lane.BATCH)
    bus = open_transport(settings).bus
    await bus.open()
    try:
        await bus.ensure_topic(topic, PARTITIONS)
        known, sent = sum((await bus.committed(topic, topic)).values()), 0
        request = InferRequest(
            "", model, "1", tuple(from_array(name, array) for name, array in arrays.items()),
            reply_to=names.reply_to_topic(f"backlog-{run}"),
        )  # fmt: skip
        while True:
            answered = sum((await bus.committed(topic, topic)).values()) - known
            if stop.is_set() and answered >= sent:
                return
            while not stop.is_set() and sent - answered < records:
                request.id = f"{run}-{sent}"
                value, headers = codec.encode_request(request)
                await bus.publish(topic, [OutRecord(value, headers)])
                sent += 1
            ready.set()
            await asyncio.sleep(_LOOK_EVERY)
    finally:
        await bus.close()
