from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from loadtest import arrivals
from loadtest.connections import Address, HttpTarget
from loadtest.openloop import closed_loop, open_loop
from loadtest.payloads import Pool
from loadtest.samples import Outcome, Samples
from protocol.errors import InvalidArgument
from tests.loadtest.conftest import Body, Handler, Reply, V2Server, right

Serve = Callable[[Handler], Awaitable[V2Server]]


async def test_bodies_rotate_and_answers_are_checked(serve: Serve, pool: Pool) -> None:
    server = await serve(right)
    samples = Samples()
    await open_loop(HttpTarget(server.address, pool), arrivals.schedule("constant", 1000, 0.2), samples)
    assert samples.outcomes == {Outcome.OK: 200}
    assert server.bodies == set(pool.bodies)


async def test_connections_are_kept_and_limited(serve: Serve, pool: Pool) -> None:
    server = await serve(right)
    samples = Samples()
    target = HttpTarget(server.address, pool, limit=3)
    await open_loop(target, arrivals.schedule("burst", 2000, 0.3, seed=1), samples, width=1)
    assert samples.outcomes[Outcome.OK] == samples.total == server.requests > 32
    assert server.connections == 3


async def test_a_stalled_server_shows_in_the_tail_although_few_requests_met_it(serve: Serve, pool: Pool) -> None:
    """One connection, one slow answer: the 59 requests that were due meanwhile also count as late."""
    stall, rate = 0.3, 200
    loop, slow = asyncio.get_running_loop(), itertools.count()

    async def once_slow(body: Body) -> Reply:
        if next(slow) == 20:
            released = asyncio.Event()
            loop.call_later(stall, released.set)
            await released.wait()
        return await right(body)

    server = await serve(once_slow)
    honest, naive = Samples(), Samples()
    await open_loop(
        HttpTarget(server.address, pool, limit=1), arrivals.schedule("constant", rate, 1.0), honest, width=1
    )
    slow = itertools.count()
    await closed_loop(HttpTarget(server.address, pool), 1, 1.0, naive)
    assert honest.outcomes == {Outcome.OK: rate}
    assert honest.latency.percentile_ms(99) > 0.9 * stall * 1e3
    assert honest.latency.share_within(stall / 3) < 0.85  # two thirds of the 60 that were due meanwhile, of 200
    assert naive.latency.percentile_ms(99) < 0.5 * stall * 1e3  # what coordinated omission hides
    assert naive.latency.percentile_ms(100) > 0.9 * stall * 1e3


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ((429, b'{"error":"queue is full"}'), Outcome.REJECTED),
        ((503, b'{"error":"starting"}'), Outcome.REJECTED),
        ((500, b'{"error":"boom"}'), Outcome.FAILED),
        ((504, b'{"error":"late"}'), Outcome.FAILED),
        ((0, b""), Outcome.FAILED),
        ((-1, b"SSH-2.0-OpenSSH\r\n\r\n"), Outcome.FAILED),
        ((200, b"{}"), Outcome.WRONG),
        ((200, b'{"outputs":[{"name":"OUTPUT0","data":[1.0]}]}'), Outcome.WRONG),
    ],
)
async def test_what_is_not_right_is_counted_and_named(serve: Serve, pool: Pool, reply: Reply, outcome: Outcome) -> None:
    async def answer(_: Body) -> Reply:
        return reply

    server = await serve(answer)
    target, samples = HttpTarget(server.address, pool), Samples()
    await open_loop(target, arrivals.schedule("constant", 200, 0.1), samples)
    assert samples.outcomes == {outcome: 20}
    assert sum(target.complaints.values()) == 20
    assert all(complaint.startswith(outcome.value) for complaint in target.complaints)


async def test_a_server_that_closes_after_each_answer_is_served_by_new_connections(serve: Serve, pool: Pool) -> None:
    async def once(body: Body) -> Reply:
        _, answer = await right(body)
        return 299, answer

    server = await serve(once)
    samples = Samples()
    await open_loop(
        HttpTarget(server.address, pool, limit=2), arrivals.schedule("constant", 200, 0.2), samples, width=1
    )
    assert samples.outcomes == {Outcome.OK: 40}
    assert server.connections >= 40


async def test_nobody_listening_fails_every_request_and_does_not_spin(serve: Serve, pool: Pool) -> None:
    server = await serve(right)
    port = server.port
    await server.stop()
    target, samples = HttpTarget(Address("127.0.0.1", port, "addsub"), pool, limit=4), Samples()
    await closed_loop(target, 4, 0.35, samples)
    assert samples.outcomes[Outcome.FAILED] == samples.total
    assert 4 <= samples.total <= 20
    assert any("cannot connect" in complaint for complaint in target.complaints)


def test_addresses() -> None:
    address = Address.parse("http://127.0.0.1:8000/", "a b/c", "3")
    assert (address.host, address.port) == ("127.0.0.1", 8000)
    assert address.path == "/v2/models/a%20b%2Fc/versions/3/infer"
    assert Address.parse("http://host", "m").path == "/v2/models/m/infer"
    request = address.request(b"{}", {"Authorization": "Bearer x"})
    assert request.endswith(b"Authorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}")
    for url in ("https://host", "host:8000", "http://", "http://host/v2"):
        with pytest.raises(InvalidArgument, match="base URL"):
            Address.parse(url, "m")
