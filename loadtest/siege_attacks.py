"""The attacks of a siege: everything that once broke a gateway over HTTP, each at its own rate.

The rates are what two cores can carry together with the attackers: a siege measures a gateway's memory and its callers' waits,
and a saturated machine shows neither.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import gzip
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from loadtest.siege_connections import Reply, ask, connect, in_chunks, request

MIB: Final = 1 << 20
INFER: Final = "/v2/models/{}/infer"
STUCK_FOR: Final = 45
"""Seconds that a call of the stuck model waits before its deadline."""
_HELD: Final = 30.0
"""Seconds for which a client keeps an idle connection."""


class Ground:
    """The attacks' shared state and counts.

    Attributes:
        port, metrics: of the gateway.
        statuses: answers by attack and status; "-" for a connection that ended without one.
        wrong: wrong answers by attack.
        handles: of asynchronous calls that were accepted, the newest last.
        count: numbers for requests.
    """

    def __init__(self, port: int, metrics: int, seed: int = 0) -> None:
        self.port = port
        self.metrics = metrics
        self.dice = random.Random(seed)
        self.statuses: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.wrong: dict[str, list[str]] = collections.defaultdict(list)
        self.handles: collections.deque[str] = collections.deque(maxlen=50)
        self.count = itertools.count()

    def note(self, name: str, replies: list[Reply]) -> None:
        """Count answers."""
        for reply in replies:
            self.statuses[name][str(reply.status)] += 1
            if b'"canary"' in reply.body and reply.status == 200:
                self.wrong[name].append("a request within a body was answered")
            if reply.headers.get("penstock-error") == "INTERNAL":
                self.wrong[name].append(f"{reply.status}: {reply.body[:200]!r}")
        if not replies:
            self.statuses[name]["-"] += 1


Strike = Callable[[Ground, str], Awaitable[None]]


@dataclasses.dataclass(frozen=True, slots=True)
class Attack:
    """One kind of attack.

    Attributes:
        name: short.
        what: a description of one attempt.
        per_second: how often.
        strike: does it once.
    """

    name: str
    what: str
    per_second: float
    strike: Strike


ATTACKS: Final[dict[str, Attack]] = {}


def attack(name: str, per_second: float, what: str) -> Callable[[Strike], Strike]:
    """Registers a function that makes one attempt of an attack."""

    def register(strike: Strike) -> Strike:
        ATTACKS[name] = Attack(name, what, per_second, strike)
        return strike

    return register


def infer_body(number: int, model: str = "addsub", **more: Any) -> bytes:
    """A valid request for `addsub` or `any`, whose id and values are its number."""
    names, shape = (("INPUT0", "INPUT1"), [1, 16]) if model == "addsub" else (("IN",), [16])
    inputs = [{"name": name, "datatype": "FP32", "shape": shape, "data": [number % 1000] * 16} for name in names]
    return orjson.dumps({"id": f"s{number}", "inputs": inputs, **more})


def is_answer(reply: Reply, number: int) -> bool:
    """Whether it is the answer of `infer_body(number)` for `addsub`."""
    if reply.status != 200:
        return False
    document = orjson.loads(reply.body)
    return bool(document.get("id") == f"s{number}" and document["outputs"][0]["data"] == [2.0 * (number % 1000)] * 16)


_CANARY: Final = request("POST", INFER.format("addsub"), (), infer_body(0).replace(b'"s0"', b'"canary"'))
_ROUTES: Final = (
    ("GET", "/v2/health/live"), ("GET", "/v2"), ("GET", "/v2/models/addsub"), ("POST", "/v2/repository/index"), ("GET", "/nothing"),
    ("POST", INFER.format("addsub")), ("DELETE", "/v2/requests/none"),
)  # fmt: skip
_CHUNKED: Final = "Transfer-Encoding: chunked"


async def _send_and_hold(ground: Ground, name: str, data: bytes, seconds: float = _HELD) -> None:
    line = await connect(ground.port)
    try:
        line.write(data)
        async with asyncio.timeout(seconds):
            await asyncio.shield(line.lost)
    except TimeoutError:
        pass
    finally:
        line.leave()
    ground.note(name, line.replies)


@attack(
    "trailers", 1.0, "8 MiB of trailers after an empty chunked body, on a route without a key; the connection is kept"
)
async def _(ground: Ground, name: str) -> None:
    method, path = ground.dice.choice(_ROUTES)
    trailers = b"x-trailer: %b\r\n" % (b"t" * 1000) * (8 * MIB // 1014)
    await _send_and_hold(ground, name, request(method, path, [_CHUNKED]) + in_chunks(b"{}", trailers)[:-2])


@attack("one endless trailer", 0.5, "a trailer of 4 MiB that does not end")
async def _(ground: Ground, name: str) -> None:
    method, path = ground.dice.choice(_ROUTES)
    data = request(method, path, [_CHUNKED]) + b"0\r\nx: " + b"t" * (4 * MIB)
    await _send_and_hold(ground, name, data)


@attack("smuggling", 10.0, "an offered upgrade with a whole request in the body, on every route")
async def _(ground: Ground, name: str) -> None:
    method, path = ground.dice.choice(_ROUTES)
    offer = ["Connection: Upgrade", f"Upgrade: {ground.dice.choice(('x', 'h2c', 'websocket'))}"]
    if ground.dice.randrange(2):
        data = request(method, path, offer, _CANARY)
    else:
        data = request(method, path, [*offer, _CHUNKED]) + in_chunks(_CANARY)
    ground.note(name, await ask(ground.port, data, count=2, seconds=1.0))


@attack(
    "h2c offers",
    5.0,
    "a valid call that offers h2c with a chunked body, as Java's client sends it; must be answered",
)
async def _(ground: Ground, name: str) -> None:
    number = next(ground.count)
    offer = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk"]
    data = request("POST", INFER.format("addsub"), [*offer, _CHUNKED]) + in_chunks(infer_body(number))
    replies = await ask(ground.port, data)
    ground.note(name, replies)
    if replies and not is_answer(replies[0], number) and replies[0].status not in (429, 503):
        ground.wrong[name].append(f"{replies[0].status}: {replies[0].body[:200]!r}")


_PADDED: Final = gzip.compress(infer_body(0)[:-1] + b" " * (15 * MIB) + b"}", 9, mtime=0)
_OVER: Final = gzip.compress(bytes(64 * MIB), 9, mtime=0)


@attack("gzip bombs", 1.0, "16 KB that inflate to 15 MiB of JSON, or 64 KB that inflate to 64 MiB of zeros")
async def _(ground: Ground, name: str) -> None:
    body = ground.dice.choice((_PADDED, _OVER))
    ground.note(name, await ask(ground.port, request("POST", INFER.format("addsub"), ["Content-Encoding: gzip"], body)))


@attack("a volley of gzip bombs", 1 / 30, "60 of the 15 MiB bombs at the same moment")
async def _(ground: Ground, name: str) -> None:
    data = request("POST", INFER.format("addsub"), ["Content-Encoding: gzip", "Penstock-Timeout-Ms: 3000"], _PADDED)
    for replies in await asyncio.gather(*[ask(ground.port, data) for _ in range(60)]):
        ground.note(name, replies)


@attack("large JSON", 0.2, "8 MiB of JSON with a deadline of 3 s")
async def _(ground: Ground, name: str) -> None:
    body = infer_body(0)[:-1] + b" " * (8 * MIB) + b"}"
    replies = await ask(ground.port, request("POST", INFER.format("addsub"), ["Penstock-Timeout-Ms: 3000"], body))
    ground.note(name, replies)


@attack("empty strings", 0.2, "a BYTES tensor of a million empty strings, 4 MiB")
async def _(ground: Ground, name: str) -> None:
    raw = bytes(4 * MIB)
    tensor = {"name": "IN", "datatype": "BYTES", "shape": [MIB], "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = [f"Inference-Header-Content-Length: {len(head)}"]
    ground.note(name, await ask(ground.port, request("POST", INFER.format("text"), headers, head + raw), seconds=60.0))


@attack(
    "clients that never read",
    1.0,
    "an answer of 1 MiB, on HTTP/1.0, with Connection: close or in a pipeline, not read for 30 s",
)
async def _(ground: Ground, name: str) -> None:
    raw = bytes(MIB)
    tensor = {"name": "IN", "datatype": "FP32", "shape": [MIB // 4], "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    field, version, times = ground.dice.choice(
        (("Connection: close", "1.1", 1), ("X: y", "1.0", 1), ("X: y", "1.1", 4))
    )
    headers = [f"Inference-Header-Content-Length: {len(head)}", field]
    line = await connect(ground.port, deaf=True)
    line.write(request("POST", INFER.format("any"), headers, head + raw, version) * times)
    await asyncio.sleep(_HELD)
    line.leave()
    ground.statuses[name]["left"] += 1


@attack(
    "pipelines", 5.0, "six calls at once on one connection, the second and the fourth refused; answered in their order"
)
async def _(ground: Ground, name: str) -> None:
    numbers = [next(ground.count) for _ in range(4)]
    calls = [request("POST", INFER.format("addsub"), (), infer_body(number)) for number in numbers]
    calls.insert(1, request("POST", INFER.format("addsub"), (), b"{"))
    calls.insert(3, request("POST", INFER.format("nobody"), (), infer_body(0)))
    replies = await ask(ground.port, b"".join(calls), count=6)
    ground.note(name, replies)
    if any(reply.status in (429, 503) for reply in replies):
        return
    refused = [reply.status for reply in replies[1:4:2]]
    right = [
        is_answer(reply, number)
        for reply, number in zip(replies[:1] + replies[2:3] + replies[4:], numbers, strict=False)
    ]
    if len(replies) != 6 or not all(right) or refused != [400, 404]:
        ground.wrong[name].append(f"{[reply.status for reply in replies]}, right: {right}")


@attack("addresses", 25.0, "a URL of 30 KB, never requested before, without a key")
async def _(ground: Ground, name: str) -> None:
    path = INFER.format(f"{ground.dice.getrandbits(64):016x}" * 1900)
    ground.note(name, await ask(ground.port, request("POST", path, (), b"{}")))


@attack("a stuck model", 100.0, f"a call of a model that answers one in five seconds, with a deadline of {STUCK_FOR} s")
async def _(ground: Ground, name: str) -> None:
    headers = [f"Penstock-Timeout-Ms: {STUCK_FOR * 1000}"]
    data = request("POST", INFER.format("stuck"), headers, infer_body(next(ground.count), "any"))
    ground.note(name, await ask(ground.port, data, seconds=STUCK_FOR + 30))


@attack("long polls", 10.0, "a poll of a minute for the result of a stuck call, closed after 50 ms")
async def _(ground: Ground, name: str) -> None:
    if len(ground.handles) < 20:
        headers = ["Prefer: respond-async", "Penstock-Timeout-Ms: 60000"]
        data = request("POST", INFER.format("stuck"), headers, infer_body(next(ground.count), "any"))
        replies = await ask(ground.port, data)
        ground.note(name, replies)
        ground.handles.extend([reply.headers["location"] for reply in replies if "location" in reply.headers])
        return
    path = f"{ground.handles[ground.dice.randrange(len(ground.handles))]}?wait_s=60"
    await ask(ground.port, request("GET", path), seconds=0.05)
    ground.statuses[name]["left"] += 1


@attack("slow heads", 5.0, "a head sent byte by byte for 30 s")
async def _(ground: Ground, name: str) -> None:
    line = await connect(ground.port)
    for byte in request("POST", INFER.format("addsub"), ["X-Slow: yes"], b"")[:30]:
        if line.lost.done():
            break
        line.write(bytes([byte]))
        await asyncio.sleep(1.0)
    line.leave()
    ground.note(name, line.replies)


@attack(
    "odd names",
    10.0,
    "ids that are not handles, versions of 5,000 digits, wrong and repeated hosts, bytes that are not HTTP",
)
async def _(ground: Ground, name: str) -> None:
    data = ground.dice.choice(
        (
            request("GET", "/v2/requests/a.b"), request("GET", "/v2/requests/%e2%98%83"), request("GET", "/v2/requests/\xe9"),
            request("GET", f"/v2/models/addsub/versions/{'9' * 5000}"), request("GET", "/v2", ["Host: evil.example"]),
            b"GET /v2 HTTP/1.1\r\n\r\n", ground.dice.randbytes(500) + b"\r\n\r\n", request("GET", "/v2", [f"X: {'v' * 40_000}"]),
        )
    )  # fmt: skip
    ground.note(name, await ask(ground.port, data, seconds=2.0))


@attack("silent sockets", 5.0, "a connection to the metrics port that sends nothing, kept for 30 s")
async def _(ground: Ground, name: str) -> None:
    line = await connect(ground.metrics)
    await asyncio.sleep(_HELD)
    line.leave()
    ground.statuses[name]["left"] += 1
