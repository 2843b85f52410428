"""HTTP over a socket: order, keep-alive, limits, and arbitrary input."""

from __future__ import annotations

import orjson
import pytest

from tests.gateway.fleet import Site, add_sub, raw_request, read_response
from tests.gateway.wire import BODY, closed, exchange


async def test_a_connection_is_kept(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    for number in range(3):
        writer.write(raw_request(orjson.dumps(add_sub(id=str(number)))))
        answer = await read_response(reader)

        assert answer.json["id"] == str(number)
        assert "connection" not in answer.headers
    writer.close()


async def test_pipelined_answers_come_in_order_whoever_gives_them(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    live = raw_request(b"", path="/v2/health/live", method="GET")
    bad = raw_request(b"{")
    writer.write(b"".join([raw_request(orjson.dumps(add_sub(id="a"))), live, bad, raw_request(BODY), live, bad, live]))

    answers = [await read_response(reader) for _ in range(7)]

    assert [answer.status for answer in answers] == [200, 200, 400, 200, 200, 400, 200]
    assert answers[0].json["id"] == "a"
    assert [answer.body == b'{"live":true}' for answer in answers] == [False, True, False, False, True, False, True]
    writer.close()


async def test_thousands_of_pipelined_requests_need_no_stack(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    held = raw_request(BODY)
    writer.write(held + raw_request(b"{", path="/v2/models/x/infer") * 3000)

    statuses = [(await read_response(reader)).status for _ in range(3001)]

    assert statuses == [200] + [404] * 3000
    writer.close()


async def test_a_request_in_single_bytes(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    for at, byte in enumerate(request := raw_request(BODY)):
        writer.write(bytes([byte]))
        if at % 40 == 0 or at == len(request) - 1:
            await writer.drain()

    assert (await read_response(reader)).status == 200
    writer.close()


async def test_chunked_bodies(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    chunks = (
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:100], BODY[100:])) + b"0\r\n\r\n"
    )
    head = raw_request(b"", "transfer-encoding: chunked")

    assert (await exchange(gateway, head + chunks)).status == 200


async def test_expect_100_continue(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(raw_request(b"", f"content-length: {len(BODY)}", "expect: 100-continue"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await read_response(reader)).status == 200
    writer.close()


async def test_expect_100_continue_is_refused_before_the_body_is_sent(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(api_key="secret")

    answer = await exchange(gateway, raw_request(b"", f"content-length: {len(BODY)}", "expect: 100-continue"))

    assert answer.status == 401


@pytest.mark.parametrize(
    ("request_bytes", "kept"),
    [
        (raw_request(BODY), True),
        (raw_request(BODY, "connection: close"), False),
        (raw_request(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (raw_request(b"{", "connection: close"), False),
    ],
)
async def test_the_connection_is_closed_when_asked(fleet: Site, request_bytes: bytes, kept: bool) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(request_bytes)
    answer = await read_response(reader)

    assert (answer.headers.get("connection") == "close") != kept
    if not kept:
        assert await closed(reader) == b""
    writer.close()


async def test_nothing_behind_a_closing_request_is_run(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(raw_request(BODY, "connection: close") + raw_request(BODY) * 3)

    assert (await read_response(reader)).status == 200
    assert await closed(reader) == b""
    assert len(worker.ran) == 1
    writer.close()


async def test_an_upgrade_is_not_offered_but_the_request_is_answered(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    reader, writer = await gateway.connect()
    offer = raw_request(BODY, "connection: upgrade", "upgrade: h2c")
    writer.write(offer + raw_request(BODY) + offer[:-20])
    await writer.drain()
    writer.write(offer[-20:] + raw_request(b"", "upgrade: h2c", "connection: upgrade", path="/", method="GET") * 3000)

    statuses = [(await read_response(reader)).status for _ in range(3003)]

    assert statuses == [200] * 3 + [404] * 3000


@pytest.mark.parametrize(
    "target", ["/v2/models/add_sub/infer?x=1", "http://host/v2/models/add_sub/infer", "/v2/models/add%5Fsub/infer"]
)
async def test_forms_of_the_target(fleet: Site, target: str) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    assert (await exchange(gateway, raw_request(BODY, path=target))).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/add_sub/infer", 405),
        ("DELETE", "/v2/health/live", 405),
        ("POST", "/v2/models/add_sub/versions/x/infer", 404),
        ("POST", "/v2/models//infer", 404),
        ("POST", "/v2/models/add_sub/infer/", 404),
        ("GET", "/v2/models/add_sub/versions/1x", 404),
        ("GET", "/", 404),
        ("OPTIONS", "*", 404),
    ],
)
async def test_other_methods_and_paths(fleet: Site, method: str, path: str, status: int) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    answer = await exchange(gateway, raw_request(b"", path=path, method=method))

    assert answer.status == status
    assert answer.json == {"error": "Method Not Allowed" if status == 405 else "Not Found"}


async def test_head_has_no_body(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    for path in ("/v2", "/v2/models/add_sub/infer"):
        writer.write(raw_request(b"", "connection: keep-alive", path=path, method="HEAD"))
    writer.write(raw_request(b"", path="/v2/health/live", method="GET"))

    heads = [(await reader.readuntil(b"\r\n\r\n")).split(b" ")[1] for _ in range(3)]

    assert heads == [b"200", b"405", b"200"]
