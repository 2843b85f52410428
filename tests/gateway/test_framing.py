"""Where a request ends, and which host it names: no body becomes another request, and no web page calls this machine."""

from __future__ import annotations

import orjson
import pytest

from gateway.rest.framing import Hosts
from tests.gateway.fleet import Answered, Running, Site, add_sub, raw_request, read_response
from tests.gateway.wire import BODY, closed

LIVE = "/v2/health/live"
SMUGGLED = raw_request(b"", path="/v2/repository/index", method="POST")


def chunked(body: bytes, *sizes: int) -> bytes:
    """The body in chunks, with an extension and a trailer."""
    parts, at = [], 0
    for size in (*sizes, len(body)):
        piece, at = body[at : at + size], at + size
        parts.append(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) if piece else b"")
    return b"".join(parts) + b"0\r\nx-trailer: y\r\n\r\n"


async def answers(gateway: Running, sent: bytes, pieces: int = 1) -> list[Answered]:
    """All responses to these bytes, which end with a request for another path, so that no bytes can be left over."""
    reader, writer = await gateway.connect()
    sent += raw_request(b"", "connection: close", path="/last", method="GET")
    step = -(-len(sent) // pieces)
    for at in range(0, len(sent), step):
        writer.write(sent[at : at + step])
        await writer.drain()
    got = [await read_response(reader)]
    while b"Not Found" not in got[-1].body and got[-1].headers.get("connection") != "close":
        got.append(await read_response(reader))
    assert await closed(reader) == b""
    writer.close()
    return got


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("offer", ["h2c", "websocket", "x", "TLS/1.0, HTTP/1.1"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", LIVE, 200),
        ("POST", LIVE, 405),
        ("GET", "/v2/models/add_sub", 200),
        ("POST", "/v2/repository/index", 400),
        ("POST", "/v2/models/add_sub/infer", 400),
        ("DELETE", "/v2/requests/nobody", 404),
    ],
)
async def test_the_body_of_a_request_that_offers_an_upgrade_is_not_a_second_request(
    fleet: Site, offer: str, method: str, path: str, status: int, pieces: int
) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    lines = ("Connection: keep-alive, Upgrade", f"Upgrade: {offer}")
    length = raw_request(SMUGGLED, *lines, path=path, method=method)
    chunks = raw_request(b"", *lines, "Transfer-Encoding: chunked", path=path, method=method) + chunked(SMUGGLED, 3, 40)

    got = await answers(gateway, length + chunks + length, pieces)

    assert [answer.status for answer in got] == [status] * 3 + [404]


@pytest.mark.parametrize("pieces", [1, 5, 100])
async def test_an_h2c_offer_with_a_chunked_body_is_answered(fleet: Site, pieces: int) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    head = raw_request(b"", *lines, "Transfer-encoding: chunked")
    bodies = [orjson.dumps(add_sub(id=str(number))) for number in range(3)]

    got = await answers(gateway, b"".join([head + chunked(body, 1, 100) for body in bodies]), pieces)

    assert [answer.status for answer in got] == [200, 200, 200, 404]
    assert [answer.json["id"] for answer in got[:3]] == ["0", "1", "2"]
    assert len(worker.ran) == 3


@pytest.mark.parametrize(
    "head",
    [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
        "connection: upgrade\r\nupgrade: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked",
        "content-length: 3\r\ncontent-length: 3",
        "content-length: 3\r\ncontent-length: 4",
        "content-length: 3, 3",
        "content-length: +3",
        "content-length: 0x3",
        "content-length:",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding:\r\n chunked",
        "transfer-encoding : chunked",
        "x: y\ncontent-length: 3",
        "x: y\rcontent-length: 3",
        "x: a\r\n b\r\ncontent-length: 3",
        "x\0y: z\r\ncontent-length: 3",
        "content-length: 3\r\nhost: localhost",
    ],
)
@pytest.mark.parametrize("path", [LIVE, "/v2/models/add_sub/infer", "/v2/repository/index"])
async def test_a_request_that_two_servers_may_frame_differently_is_refused_and_ends_the_connection(
    fleet: Site, head: str, path: str
) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n".encode() + b"0\r\n\r\n" + raw_request(BODY)
    )

    answer = await read_response(reader)

    assert answer.status in (400, 501)
    assert answer.headers["connection"] == "close"
    assert await closed(reader) == b""
    assert worker.ran == []
    writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v2/models/add_sub/infer HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /v2/health/live HTTP/2.0\r\nhost: localhost\r\n\r\n", 505),
        (b"GET /v2/health/live\r\n\r\n", 505),
        (b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
        (b"GET /v2/health/live HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /v2/health/live HTTP/1.0\r\n\r\n", 200),
        (b"GET http://localhost/v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 200),
    ],
)
async def test_versions_methods_and_hosts(fleet: Site, sent: bytes, status: int) -> None:
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(sent + raw_request(b"", path=LIVE, method="GET"))

    assert (await read_response(reader)).status == status
    assert await closed(reader) == b""
    writer.close()


async def test_a_trailer_is_no_header(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(api_key="secret")
    for path in ("/v2/repository/index", "/v2/models/add_sub/infer"):
        reader, writer = await gateway.connect()
        writer.write(
            raw_request(b"", "transfer-encoding: chunked", path=path) + b"2\r\n{}\r\n0\r\nx-api-key: secret\r\n\r\n"
        )

        assert (await read_response(reader)).status == 401
        writer.close()


async def test_a_blank_behind_a_header_value_is_no_part_of_it(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    length = f"inference-header-content-length: {len(BODY)} \t"
    writer.write(raw_request(BODY, length, "penstock-timeout-ms: 5000  ", "content-encoding: identity "))

    assert (await read_response(reader)).status == 200
    writer.close()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["host: evil.example"], 403),
        (["host: evil.example:8000"], 403),
        (["host: localhost.evil.example"], 403),
        (["host: 192.168.1.7"], 403),
        (["host:"], 403),
        (["host: a@localhost:x"], 403),
        (["host: localhost", "origin: https://evil.example"], 403),
        (["host: localhost", "origin: null"], 403),
        (["host: localhost:8000", "origin: http://localhost:3000"], 200),
        (["host: LOCALHOST:8000"], 200),
        (["host: 127.0.0.1:8000"], 200),
        (["host: 127.8.9.1"], 200),
        (["host: [::1]:8000"], 200),
        (["host: models.internal"], 200),
    ],
)
async def test_without_a_key_only_this_machines_names_are_answered(fleet: Site, lines: list[str], status: int) -> None:
    gateway = await fleet.gateway(allowed_hosts=("models.internal",))
    reader, writer = await gateway.connect()
    writer.write("\r\n".join([f"GET {LIVE} HTTP/1.1", *lines, "", ""]).encode())

    assert (await read_response(reader)).status == status
    writer.close()


async def test_with_a_key_every_name_is_answered(fleet: Site) -> None:
    gateway = await fleet.gateway(api_key="secret")
    reader, writer = await gateway.connect()
    writer.write(b"GET /v2 HTTP/1.1\r\nhost: models.example\r\nx-api-key: secret\r\n\r\n")

    assert (await read_response(reader)).status == 200
    writer.close()


def test_the_hosts_that_are_remembered_are_bounded() -> None:
    hosts = Hosts(())
    for number in range(1000):
        assert hosts.fault({b"host": b"127.0.%d.%d" % (number // 250, number % 250)}) is None
    assert hosts.fault({b"host": b"localhost:" + b"0" * 5000 + b"1"}) is None

    assert len(hosts._known) <= 64
    assert max(map(len, hosts._known)) <= 64
