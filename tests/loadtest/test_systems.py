from __future__ import annotations

import os
import socket
import threading

import pytest

from loadtest import systems
from loadtest.connections import Address
from loadtest.payloads import Pool
from loadtest.processes import Meter, ServerProcess
from protocol.errors import FleetError, Unavailable
from tests.loadtest.conftest import Body, Reply, V2Server


def test_the_first_right_answer_ends_the_wait(threaded_server: V2Server, pool: Pool) -> None:
    systems.wait_for_answer(threaded_server.address, pool, {})
    assert threaded_server.requests == 1


def test_waiting_goes_on_until_the_model_is_there(threaded_server: V2Server, pool: Pool) -> None:
    right, refused = threaded_server.handler, [404, 503]

    async def late(body: Body) -> Reply:
        return (refused.pop(), b"not yet") if refused else await right(body)

    threaded_server.handler = late
    systems.wait_for_answer(threaded_server.address, pool, {})
    assert threaded_server.requests == 3


def test_a_wrong_first_answer_is_no_start(threaded_server: V2Server, pool: Pool) -> None:
    async def wrong(_: Body) -> Reply:
        return 200, b'{"outputs":[{"name":"OUTPUT0","data":[1]}]}'

    threaded_server.handler = wrong
    with pytest.raises(FleetError, match="answered wrongly"):
        systems.wait_for_answer(threaded_server.address, pool, {})


def test_a_server_that_dies_at_start_ends_the_wait_with_its_words(pool: Pool) -> None:
    process = ServerProcess(["-c", "raise SystemExit('bad flag')"], None)
    address = Address("127.0.0.1", systems.free_port(), "addsub")
    with pytest.raises(Unavailable, match="bad flag"):
        systems.wait_for_answer(address, pool, {"server": process})
    process.stop()


def test_statistics_and_readiness_are_asked_of_the_server(threaded_server: V2Server, pool: Pool) -> None:
    system = systems.System("embedded", threaded_server.port, Meter({"ours": os.getpid()}), 0.5)
    systems.wait_until_ready(system.address("addsub"))
    for body in pool.bodies[:6]:
        systems.ask(system.address("addsub"), "POST", system.address("addsub").path, body)
    assert system.executed("addsub") == (6, 3)
    assert set(system.memory_mib()) == {"ours"}


@pytest.fixture
def redis_says() -> str:
    return "$40\r\n# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\n\r\n"


def once(answer: str) -> str:
    """The URL of a server that answers one connection with this."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(100)
            connection.sendall(answer.encode())

    threading.Thread(target=serve, daemon=True).start()
    return f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def test_redis_is_asked_for_its_memory(redis_says: str) -> None:
    assert systems.redis_used_bytes(once(redis_says)) == 1 << 20


@pytest.mark.parametrize("answer", ["-NOAUTH Authentication required.\r\n", "", "$0\r\n\r\n"])
def test_a_redis_that_does_not_say_is_named(answer: str) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        systems.redis_used_bytes(once(answer))
