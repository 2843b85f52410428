"""Any bytes on a socket get a clear error or no answer, and leave nothing behind in the gateway."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import random

import pytest

from tests.bad_input.hostile import BODY, HTTP, noise
from tests.gateway.fleet import Running, Site, add_sub, raw_request, read_response, site, until

ROUNDS = 60


async def say(gateway: Running, sent: bytes) -> bytes:
    """Send it on its own connection; returns everything received."""
    reader, writer = await gateway.connect()
    gateway._writers.remove(writer)  # otherwise the test itself would grow
    with contextlib.suppress(ConnectionError):
        writer.write(sent)
        await writer.drain()
        writer.write_eof()
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 20)
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


def ours() -> collections.Counter[str]:
    """Objects of the gateway, of the wire and of asyncio, by type; without cancelled timers, of which asyncio keeps up to 100."""
    gc.collect()
    counted = collections.Counter(
        f"{type(thing).__module__}.{type(thing).__qualname__}"
        for thing in gc.get_objects()
        if not (
            type(thing) is asyncio.TimerHandle and thing.cancelled()
        )  # isinstance would run code of other libraries
    )
    return collections.Counter(
        {
            name: count
            for name, count in counted.items()
            if name.startswith(("gateway.", "protocol.", "asyncio.", "_asyncio."))
        }
    )


def published(fleet: Site) -> int:
    """Records that reached the log of any model."""
    return sum(log.end for name, topic in fleet.broker.topics.items() if ".infer." in name for log in topic.logs)


@pytest.mark.parametrize("name", HTTP)
async def test_each_is_refused_with_its_status_and_publishes_nothing(name: str) -> None:
    sent, status = HTTP[name]
    async with site() as fleet:
        await fleet.worker()
        gateway = await fleet.gateway()
        before = published(fleet)
        reader, writer = await gateway.connect()
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
        answer = await asyncio.wait_for(read_response(reader), 20)
        assert str(answer.status) == status, answer
        assert answer.json["error"]
        assert b"Traceback" not in answer.body
        assert len(answer.body) < 4096  # the request is not echoed
        assert published(fleet) == before
        assert (await gateway.infer()).status_code == 200


async def test_garbage_behind_a_good_request_does_not_take_its_answer() -> None:
    async with site() as fleet:
        await fleet.worker()
        gateway = await fleet.gateway()
        for garbage in (
            b"\0" * 100,
            b"GET / HTTP/9.9\r\n\r\n",
            b"\xff\xfe" * 40,
            b"POST /v2 HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        ):
            reader, writer = await gateway.connect()
            writer.write(raw_request(BODY) + garbage)
            first, second = await read_response(reader), await read_response(reader)
            assert first.status == 200
            assert second.status in (400, 505)
            assert second.headers["connection"] == "close"
            assert await reader.read() == b""
            writer.close()


async def test_those_who_send_byte_by_byte_hold_up_nobody() -> None:
    """Slow loris: all allowed connections but one, each with half a head; they get 408 in the end."""
    async with site() as fleet:
        await fleet.worker()
        gateway = await fleet.gateway(max_connections=50, read_timeout=1.0)
        slow = [await gateway.connect() for _ in range(48)]
        for _, writer in slow:
            writer.write(b"POST /v2/models/add_sub/infer HTTP/1.1\r\nhost: localhost\r\ncontent-le")
        assert (await gateway.infer()).status_code == 200
        for reader, _ in slow:
            answer = await asyncio.wait_for(reader.read(), 20)
            assert answer.startswith(b"HTTP/1.1 408")
        assert (await gateway.infer()).status_code == 200


async def test_nothing_grows_under_garbage() -> None:
    """The same garbage twice: the second time adds no objects or bytes."""
    async with site() as fleet:
        await fleet.worker()
        gateway = await fleet.gateway()

        async def round_of_it() -> collections.Counter[str]:
            for seed in range(ROUNDS):
                await say(gateway, noise(random.Random(seed)))
            for sent, _ in HTTP.values():
                await say(gateway, sent)
            await until(lambda: gateway.metric("penstock_gateway_inflight") == 0)
            return ours()

        await round_of_it()
        first = await round_of_it()
        second = await round_of_it()
        grown = {name: count - first[name] for name, count in second.items() if count - first[name] > ROUNDS / 4}
        assert not grown
        service = gateway.gateway.service
        assert len(service.completion.pending) == 0
        assert service.admission.size == 0
        assert service.admission.calls == 0
        assert (await gateway.infer(add_sub())).status_code == 200
