"""On uvloop, as in production: libuv accepts one connection per listening socket and turn of the event loop."""

from __future__ import annotations

import asyncio
import socket

import uvloop

from tests.gateway.fleet import site

BURST = 64


def test_a_burst_of_connections_is_accepted_within_a_few_turns() -> None:
    async def turns_for_a_burst() -> int:
        async with site() as fleet:
            gateway = await fleet.gateway()
            state = gateway.gateway._http._server.server_state
            callers = [socket.create_connection(("127.0.0.1", gateway.gateway.port)) for _ in range(BURST)]
            turns = 0
            async with asyncio.timeout(30):
                while len(state.connections) < BURST:
                    turns += 1
                    await asyncio.sleep(0)
            for caller in callers:
                caller.close()
            return turns

    assert uvloop.run(turns_for_a_burst()) <= BURST // 4


async def test_a_drained_gateway_listens_on_no_socket() -> None:
    async with site() as fleet:
        gateway = await fleet.gateway()
        await gateway.gateway.drain()
        with socket.socket() as caller:
            caller.settimeout(5)
            assert caller.connect_ex(("127.0.0.1", gateway.gateway.port)) != 0
