"""Ways to a real Redis: TLS, a unix socket, passwords, and a network that loses replies."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.local.redis import RedisServer
from protocol.errors import Unavailable
from protocol.ports import Claimed, ClaimState, FinishOutcome, Terminal
from protocol.transport.redis.store import RedisStore
from protocol.transport.settings import TransportSettings
from tests.transport.contract_results import new_claim, new_ref
from tests.transport.test_redis import RedisSite
from tests.transport.test_redis_faults import listening

pytestmark = pytest.mark.servers

TLS = Path(__file__).parent / "tls"


@pytest.fixture
async def site(own_redis: RedisServer, prefix: str) -> AsyncIterator[RedisSite]:
    site = RedisSite(own_redis.url, prefix)
    yield site
    await site.close()


class Proxy:
    """Passes bytes on to Redis, optionally over TLS; on request drops the next reply and the connection."""

    def __init__(self, server: RedisServer, tls: ssl.SSLContext | None = None) -> None:
        self.server = server
        self.tls = tls
        self.drop_next_reply = False
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        back, forth = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, forth))
                group.create_task(self._pass(back, writer, replies=True))
        except* (OSError, EOFError):
            pass
        finally:
            for end in (writer, forth):
                end.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await end.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: bool = False) -> None:
        while data := await reader.read(65536):
            if replies and self.drop_next_reply:
                self.drop_next_reply = False
                break
            writer.write(data)
            await writer.drain()
        raise EOFError


class TestLostReplies:
    """The call was executed and its reply lost: the client sends it again on its own."""

    @pytest.fixture
    async def proxied(self, own_redis: RedisServer, prefix: str) -> AsyncIterator[tuple[Proxy, RedisSite]]:
        async with Proxy(own_redis) as proxy:
            site = RedisSite(f"redis://127.0.0.1:{proxy.port}", prefix)
            yield proxy, site
            await site.close()

    async def test_a_claim_stays_ones_own(self, proxied: tuple[Proxy, RedisSite]) -> None:
        proxy, site = proxied
        store, ref = await site.connect(), new_ref()
        proxy.drop_next_reply = True
        assert await store.claim(new_claim(ref)) == Claimed(ClaimState.FRESH)
        assert not proxy.drop_next_reply
        assert (await store.claim(new_claim(ref))).state is ClaimState.ATTACHED

    async def test_a_terminal_is_written_once(self, proxied: tuple[Proxy, RedisSite]) -> None:
        proxy, site = proxied
        store, ref = await site.connect(), new_ref()
        proxy.drop_next_reply = True
        assert await store.finish([Terminal(ref, b"r")]) == [FinishOutcome.ALREADY_TERMINAL]
        assert (await store.look([ref]))[0].payload == b"r"  # type: ignore[union-attr]


class TestSecurity:
    @pytest.mark.parametrize("own_redis", [{"requirepass": "s3cret"}], indirect=True)
    async def test_a_password_in_the_url(
        self, site: RedisSite, own_redis: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        worker, (_, channel, wakes) = await site.connect(), await listening(site)
        await worker.finish([Terminal(new_ref(), b"r", channel)])
        await site.until(lambda: len(wakes) == 1)
        for url, words in (
            (own_redis.url.replace("s3cret", "wr0ng"), "password"),
            (own_redis.url.replace(":s3cret@", ""), "password"),
        ):
            stranger = RedisSite(url, prefix)
            with pytest.raises(Unavailable, match=words) as caught:
                await stranger.connect()
            assert "wr0ng" not in caught.value.message
            await stranger.close()
        assert "s3cret" not in caplog.text

    @pytest.mark.parametrize("own_redis", [{"unixsocket": "redis.sock", "requirepass": "s3cret"}], indirect=True)
    async def test_a_unix_socket(self, own_redis: RedisServer, prefix: str) -> None:
        path = own_redis.data / "redis.sock"
        site = RedisSite(f"unix://:s3cret@{path}?db=1", prefix)
        worker, (_, channel, wakes) = await site.connect(), await listening(site)
        await worker.finish([Terminal(new_ref(), b"r", channel)])
        await site.until(lambda: len(wakes) == 1)
        await site.close()
        for login, words in ((":wr0ng@", "refuses the user name or password"), ("", "requires a password")):
            stranger = RedisSite(f"unix://{login}{path}", prefix)
            with pytest.raises(Unavailable, match=words):
                await stranger.connect()
            await stranger.close()

    async def test_tls(self, own_redis: RedisServer, prefix: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
        async with Proxy(own_redis, context) as proxy:
            site = RedisSite(f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={TLS / 'ca.pem'}", prefix)
            worker, (_, channel, wakes) = await site.connect(), await listening(site)
            await worker.finish([Terminal(new_ref(), b"r", channel)])
            await site.until(lambda: len(wakes) == 1)
            await site.close()
            distrustful = RedisStore(
                TransportSettings(
                    kafka="unused:1", redis=f"rediss://localhost:{proxy.port}/0", prefix=prefix, connect_timeout=0.5
                )
            )
            with pytest.raises(Unavailable, match="certificate"):
                await distrustful.open()
            await distrustful.close()
