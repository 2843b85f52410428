"""HTTP requests that are wrong, or valid in a way that servers often mishandle, each with its allowed answers.

Some bodies hide `CANARY`, a whole request: a server that answers it has mistaken a body for the next request.
"""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from typing import Final

import orjson

from tests.bad_input.hostile import INNER_BOMB, anything
from tests.bad_input.requests import ECHO, HOST, OK, TEXT, Asked, chunked, echo_body, empty_strings, head, post

_CANARY_BODY: Final = b'{"id":"canary","inputs":[{"name":"IN","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
CANARY: Final = post(ECHO, _CANARY_BODY)
Maker = Callable[[str, random.Random], Asked]

BAD: Final = frozenset({400})
TOO_LARGE: Final = frozenset({400, 413, 431})
FRAMING: Final = frozenset({200, 400, 501})
GONE: Final = frozenset({400, 404, 410, 414})
_ROUTES: Final = (
    ("GET", "/v2/health/live", OK), ("GET", "/v2/health/ready", OK), ("GET", "/v2", OK), ("GET", "/v2/models/echo", OK),
    ("GET", "/v2/models/echo/config", OK), ("GET", "/v2/models/stats", OK), ("POST", "/v2/repository/index", FRAMING),
    ("POST", "/v2/repository/models/echo/load", frozenset({501})), ("POST",
    "/v2/models/nobody/infer", frozenset({400, 404})),
    ("GET", "/v2/requests/0123456789abcdef0123456789abcdef", frozenset({404})), ("DELETE",
    "/v2/requests/none", frozenset({404, 400})),
    ("GET", "/nothing", frozenset({404})), ("POST", "/v2/systemsharedmemory/status", frozenset({405})),
    ("GET", ECHO, frozenset({405, 404})), ("PUT", "/v2", frozenset({405})), ("POST", ECHO, BAD),
)  # fmt: skip
"""Every kind of route, and its answers to a body that is not a request."""


def _hidden(dice: random.Random) -> bytes:
    return dice.choice((CANARY, CANARY * 3, b"\r\n" + CANARY, head("GET", "/v2/models/canary")))


# --- framing ---------------------------------------------------------------------------------------------------------


def _upgrade(label: str, dice: random.Random) -> Asked:
    """A body behind an offer to upgrade is a body, on every route."""
    method, path, statuses = dice.choice(_ROUTES)
    token = dice.choice((b"x", b"h2c", b"websocket", b"TLS/1.0, HTTP/1.1", b"h2c, x"))
    fields = [
        b"connection: " + dice.choice((b"Upgrade", b"upgrade, http2-settings", b"keep-alive, Upgrade")),
        b"upgrade: " + token,
    ]
    if token == b"websocket":
        fields += [b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"sec-websocket-version: 13"]
    body = _hidden(dice)
    if dice.randrange(2):
        data = head(method, path, *fields, b"content-length: %d" % len(body)) + body
    else:
        data = head(method, path, *fields, b"transfer-encoding: chunked") + chunked(body, dice)
    return Asked(f"upgrade to {token!r} on {method} {path}", data, statuses | {400, 426, 501}, may_end=True)


def _h2c(label: str, dice: random.Random) -> Asked:
    """As Java's HttpClient sends it: it must be served as if nothing was offered."""
    body, check = echo_body(label, dice)
    fields = (
        b"connection: Upgrade, HTTP2-Settings",
        b"upgrade: h2c",
        b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    if dice.randrange(2):
        return Asked("an h2c offer", post(ECHO, body, *fields), OK, check, honest=True)
    data = head("POST", ECHO, b"transfer-encoding: chunked", *fields) + chunked(body, dice)
    return Asked("an h2c offer with chunks", data, OK, check, honest=True)


def _trailers(label: str, dice: random.Random) -> Asked:
    method, path, statuses = dice.choice(_ROUTES)
    trailers = dice.choice(
        (
            b"x: y\r\n" * dice.choice((1, 20, 300, 5000)),
            b"x: " + b"v" * dice.choice((1000, 50_000, 300_000)) + b"\r\n",
            b"content-length: 5\r\n",
            b"transfer-encoding: chunked\r\n",
            b"no colon\r\n",
        )
    )
    data = head(method, path, b"transfer-encoding: chunked") + chunked(b"{}", dice, b"", trailers)
    return Asked(f"{len(trailers)} bytes of trailers on {method} {path}", data, statuses | TOO_LARGE, may_end=True)


def _extensions(label: str, dice: random.Random) -> Asked:
    method, path, statuses = dice.choice(_ROUTES)
    extension = b";" + dice.choice(
        (b"e" * dice.choice((100, 20_000, 200_000)), b'a="\r\n', b"a=b;" * 2000, b"\0\xff", b" = ")
    )
    data = head(method, path, b"transfer-encoding: chunked") + chunked(_hidden(dice), dice, extension)
    return Asked(
        f"{len(extension)} bytes of chunk extensions on {method} {path}", data, statuses | TOO_LARGE, may_end=True
    )


_CODINGS: Final = (
    b"gzip", b"chunked, gzip", b"gzip, chunked", b"identity", b"chunked, chunked", b"\x0bchunked", b"xchunked",
    b"Chunked", b"",
    b"chunked\r\ntransfer-encoding: identity", b"identity\r\ntransfer-encoding: chunked", b"chunked ;a=b", b'"chunked"',
)  # fmt: skip
_LENGTHS: Final = (
    b"+5", b"-5", b"5,5", b"5, 6", b"0x5", b"5 5", b"", b"1e1", b"\xd9\xa5", b"9" * 20, b"18446744073709551621", b"5;",
    b"5\r\ncontent-length: 6",
    b"5\r\ncontent-length: 5", b"00000000000000000000005",
)  # fmt: skip
_CHUNK_LINES: Final = (b"zz", b"-1", b"0x5", b" 5", b"FFFFFFFFFFFFFFFF1", b"5\n", b"", b"5 ", b"+5", b"5\r", b"\0")


def _coding(label: str, dice: random.Random) -> Asked:
    method, path, statuses = dice.choice(_ROUTES)
    body = chunked(_hidden(dice), dice)
    fields = [b"transfer-encoding: " + dice.choice(_CODINGS)]
    if dice.randrange(2):
        fields.insert(dice.randrange(2), b"content-length: %d" % dice.choice((len(body), 5, 0)))
    return Asked(f"{fields} on {method} {path}", head(method, path, *fields) + body, statuses | FRAMING, may_end=True)


def _length(label: str, dice: random.Random) -> Asked:
    method, path, statuses = dice.choice(_ROUTES)
    length = dice.choice(_LENGTHS)
    data = head(method, path, b"content-length: " + length) + b"12345"
    return Asked(f"content-length {length!r} on {method} {path}", data, statuses | FRAMING | TOO_LARGE, may_end=True)


def _chunk(label: str, dice: random.Random) -> Asked:
    method, path, statuses = dice.choice(_ROUTES)
    line = dice.choice(_CHUNK_LINES)
    data = head(method, path, b"transfer-encoding: chunked") + line + b"\r\n12345\r\n0\r\n\r\n"
    return Asked(f"a chunk of {line!r} on {method} {path}", data, statuses | FRAMING | TOO_LARGE, may_end=True)


_FIELDS: Final = (
    b"x : y", b" folded", b"x: a\r\n b", b"no colon", b": empty", b"x: \0", b"x: a\nb: c", b"x: a\rb: c",
    b"\xff\xfe: x", b"x: \xff\xfe\x80",
    b"x\0y: z", b"(x): y", b"content-length : 5", b"x:" + b" " * 1000, b"x: \x1b[31m", b"connection: close, close",
    b"connection: \xff",
    b"content-type: \0", b"traceparent: 00-" + b"z" * 300, b"accept-encoding: " + b"gzip;q=0.1," * 200,
    b"accept-encoding: gzip;q=nan",
    b"content-encoding: identity", b"prefer: wait=1e999", b"penstock-timeout-ms: 0", b"penstock-timeout-ms: \xb2",
    b"x-api-key: \xff",
    b"authorization: Bearer \xff\0", b"range: bytes=0-1", b"idempotency-key:", b"idempotency-key: \xe9\xff",
    b"idempotency-key: " + b"k" * 300,
    b"content-encoding: br", b"content-encoding: gzip, gzip", b"inference-header-content-length: -1",
    b"inference-header-content-length: 99999",
    b"inference-header-content-length: \xb2", b"inference-header-content-length: " + b"9" * 5000,
    b"penstock-timeout-ms: " + b"9" * 5000,
    b"expect: nothing", b"expect: 100-continue, 100-continue", b"te: trailers", b"keep-alive: timeout=1e9",
    b"cookie: " + b"c" * 8000,
)  # fmt: skip


def _field(label: str, dice: random.Random) -> Asked:
    body, _ = echo_body(label, dice)
    field = dice.choice(_FIELDS)
    statuses = frozenset({200, 400, 413, 415, 417, 422, 431, 501})  # 422: a key that others use too
    return Asked(f"the header {field[:60]!r}", post(ECHO, body, field), statuses, may_end=True)


def _many_fields(label: str, dice: random.Random) -> Asked:
    method, path, statuses = dice.choice(_ROUTES)
    fields = dice.choice(
        (
            [b"x-%d: y" % n for n in range(dice.choice((10, 255, 300, 3000)))],
            [b"x: " + b"v" * dice.choice((30_000, 40_000, 300_000))],
            [b"n" * dice.choice((60_000, 70_000)) + b": v"],
        )
    )
    return Asked(
        f"{len(fields)} headers on {method} {path}", head(method, path, *fields), statuses | {400, 431}, may_end=True
    )


def _host(label: str, dice: random.Random) -> Asked:
    wrong = ((), (HOST, HOST), (HOST, b"host: evil.example"), (b"host: a b",), (b"host: \xff",), (b"host: a/b",))
    foreign = ((b"host: evil.example",), (b"host:",), (b"host: 127.0.0.1:1",), (b"host: [::1]",), (b"host: localhost",))
    path = dice.choice(("/v2/health/live", "/v2", "/v2/models/echo"))
    if dice.randrange(2):
        fields = dice.choice(wrong)
        statuses = BAD | {403, 421}
    else:
        fields = dice.choice(foreign)
        statuses = frozenset({200, 400, 403, 421})
    return Asked(f"hosts {fields}", head("GET", path, *fields, host=False), statuses, may_end=True)


_LINES: Final = (
    b"GET  /v2 HTTP/1.1", b"get /v2 HTTP/1.1", b"GET\t/v2\tHTTP/1.1", b"GET /v2", b"GET /v2 HTTP/0.9",
    b"GET /v2 HTTP/2.0", b"GET /v2 HTTP/1.2",
    b"PRI * HTTP/2.0", b"GET /v2 HTTP/1.1 ", b"GET /v2 HTTP/11", b"FOO /v2 HTTP/1.1", b"TRACE /v2 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT 127.0.0.1:80 HTTP/1.1", b"CONNECT /v2 HTTP/1.1", b"GET http://127.0.0.1/v2/health/live HTTP/1.1",
    b"GET v2 HTTP/1.1",
    b"GET http://evil.example/v2 HTTP/1.1", b"GET //v2 HTTP/1.1", b"GET /v2?\xff HTTP/1.1", b"GET /v2\0 HTTP/1.1",
    b"GET /v2 http/1.1",
    b"M-SEARCH /v2 HTTP/1.1", b"POST /v2/models/echo/infer RTSP/1.0", b"GET /v2 ICE/1.0", b"SOURCE /v2 ICE/1.0",
    b"\x16\x03\x01\x02\x00\x01",
)  # fmt: skip


def _line(label: str, dice: random.Random) -> Asked:
    line = dice.choice(_LINES)
    data = line + b"\r\n" + HOST + b"\r\n\r\n"
    if line.startswith(b"CONNECT") and dice.randrange(2):
        body = _hidden(dice)
        data = line + b"\r\n" + HOST + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    return Asked(f"the line {line!r}", data, frozenset({200, 400, 403, 404, 405, 421, 426, 501, 505}), may_end=True)


# --- targets and bodies ----------------------------------------------------------------------------------------------


def _url(label: str, dice: random.Random) -> Asked:
    part = dice.choice(
        (
            "%00", "%ff%fe", "..%2f..%2fetc", "%2e%2e", "é", "%", "%zz", "a" * 200,
            "a" * 31_000, f"m{dice.getrandbits(64):x}", "echo%00", " ",
            "echo;a", "echo%2f", "'\"<>", "%e2%98%83", "\x1b[31m", f"{dice.getrandbits(32):x}" * 3000,
        )
    )  # fmt: skip
    target = dice.choice(
        (
            "/v2/models/{}/infer",
            "/v2/models/{}",
            "/v2/models/echo/versions/{}",
            "/v2/requests/{}",
            "/{}",
            "/v2/models/{}/stats",
        )
    )
    method = "POST" if target.endswith("infer") else "GET"
    raw = target.format(part).encode()
    data = post(raw, _CANARY_BODY) if method == "POST" else head(method, raw)
    return Asked(f"{method} {raw[:80]!r}", data, GONE | {431}, may_end=True)


def _version(label: str, dice: random.Random) -> Asked:
    version = dice.choice(("9" * 5000, "-1", "1.0", "0", "2", "9" * 19, "9" * 20, "1e0", "٣", "%31%00"))
    suffix = dice.choice(("/infer", "", "/config", "/ready", "/stats"))
    raw = f"/v2/models/echo/versions/{version}{suffix}".encode()
    data = post(raw, _CANARY_BODY) if suffix == "/infer" else head("GET", raw)
    return Asked(f"version {version[:30]!r}{suffix}", data, GONE, may_end=True)


def _token(label: str, dice: random.Random) -> Asked:
    token = dice.choice(
        (
            "a.b",
            "eyJ.AAAAAAAAAAAAAAAAAAAAAA",
            "%e2%98%83",
            "é",
            "%ff",
            "..",
            "a" * 10_000,
            "." * 100,
            "0" * 32,
            "%00",
            "-",
            "1.2.3",
        )
    )
    query = dice.choice(
        ("", "", "?wait_s=nan", "?wait_s=-1", "?wait_s=1e999", "?wait_s=0", "?wait_s=" + "9" * 400, "?wait_s=%ff")
    )
    raw = f"/v2/requests/{token}{query}".encode()
    return Asked(f"{token[:30]} {query[:30]}", head(dice.choice(("GET", "DELETE")), raw), GONE, may_end=True)


_WRONG_BODIES: Final = (
    (b"", BAD), (b"null", BAD), (b"[]", BAD), (b"{}", frozenset({400})), (b'{"inputs":' + b"[" * 2000, BAD),
    (b"\xff\xfe", BAD),
    (b'{"inputs":[{"name":"\\ud800"}]}', BAD), (b'{"id":5,"inputs":[]}', BAD),
    (b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[1,4]}]}', BAD),
    (b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[1,4],"data":[true,1,2,3]}]}', BAD),
    (b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[1,4],"data":[NaN,1,2,3]}]}', BAD),
    (b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[1,true],"data":[1]}]}', BAD),
    (b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[-1,4],"data":[1]}]}', BAD),
    (b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[9223372036854775807,4],"data":[]}]}', BAD),
    (b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}]}', BAD),
    (b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[1,4],"data":[' + b"9" * 5000 + b"]}]}", BAD),
    (_CANARY_BODY.replace(b'"canary"', b"true"), BAD), (_CANARY_BODY + b"x", BAD), (_CANARY_BODY[:-1], BAD),
    (_CANARY_BODY.replace(b"1,4", b"1,5"), BAD),
)  # fmt: skip
_PARAMETERS: Final = (
    '"priority":1000000000000000000', '"priority":-1', '"priority":18446744073709551615',
    '"timeout":1000000000000000000', '"timeout":-1',
    '"timeout":1e300', '"priority":true', '"sequence_id":1', '"sequence_start":1', '"binary_data_output":1',
    '"x":{"a":[]}', '"timeout":"1"',
)  # fmt: skip


def _wrong_body(label: str, dice: random.Random) -> Asked:
    body, statuses = dice.choice(_WRONG_BODIES)
    return Asked(f"the body {body[:80]!r}", post(ECHO, body), statuses)


def _any_body(label: str, dice: random.Random) -> Asked:
    document = {**orjson.loads(_CANARY_BODY), "id": label}
    place = dice.choice((document, document["inputs"][0]))
    place[dice.choice((*place, "parameters", "outputs"))] = _jsonable(anything(dice))
    statuses = frozenset({200, 400, 404, 501})
    return Asked(f"the document {document}"[:200], post(ECHO, orjson.dumps(document)), statuses)


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return {str(key): _jsonable(item) for key, item in value.items()} if isinstance(value, dict) else value


def _parameter(label: str, dice: random.Random) -> Asked:
    parameter = dice.choice(_PARAMETERS)
    body = b'{"id":"%b","parameters":{%b},' % (label.encode(), parameter.encode()) + _CANARY_BODY.split(b",", 1)[1]
    return Asked(f"the parameter {parameter}", post(ECHO, body), frozenset({200, 400, 501}))


def _refused(label: str, dice: random.Random) -> Asked:
    """Plainly wrong, but no reason to close the connection."""
    return dice.choice(
        (
            Asked("an unknown model", post("/v2/models/nobody/infer", _CANARY_BODY), frozenset({404, 400})),
            Asked("an unknown path", head("GET", "/v3"), frozenset({404})),
            Asked("a wrong method", head("DELETE", "/v2"), frozenset({405})),
            Asked("a wrong shape", post(ECHO, _CANARY_BODY.replace(b"[1,4]", b"[2,2]")), BAD),
            Asked("no JSON", post(ECHO, b"{"), BAD),
            Asked("another compression", post(ECHO, _CANARY_BODY, b"content-encoding: br"), frozenset({501, 415})),
            Asked("a deadline of nothing", post(ECHO, _CANARY_BODY, b"penstock-timeout-ms: 0"), BAD),
            Asked("shared memory", head("GET", "/v2/systemsharedmemory/status"), frozenset({501})),
        )
    )  # fmt: skip


def _deadline(label: str, dice: random.Random) -> Asked:
    body, check = echo_body(label, dice)
    data = post(ECHO, body, b"penstock-timeout-ms: %d" % dice.choice((1, 2, 5)))
    return Asked("a deadline too short", data, frozenset({200, 504}), check)


# --- size ------------------------------------------------------------------------------------------------------------

_DEFLATED: Final = zlib.compress(bytes(4 * 1024 * 1024))
_SMALL_BOMB: Final = gzip.compress(bytes(8 * 1024 * 1024), mtime=0)


def _packed(label: str, dice: random.Random) -> Asked:
    packed = gzip.compress(_CANARY_BODY, mtime=0)
    body = dice.choice((packed[:-5], packed + b"more", b"\x1f\x8b" + b"x" * 50, b"", packed + packed, _CANARY_BODY))
    return Asked("a body that is not gzip", post(ECHO, body, b"content-encoding: gzip"), BAD)


def _bomb(label: str, dice: random.Random) -> Asked:
    body, encoding = dice.choice(((_SMALL_BOMB, b"gzip"), (_DEFLATED, b"deflate"), (INNER_BOMB, b"gzip")))
    data = post(dice.choice((ECHO, TEXT)), body, b"content-encoding: " + encoding)
    return Asked(f"{len(body)} bytes of bomb", data, frozenset({400, 413}), may_end=True)


def _strings(label: str, dice: random.Random) -> Asked:
    return empty_strings(label, dice.choice((10, 1000, 1000, 10_000)))


def _huge(label: str, dice: random.Random) -> Asked:
    length = dice.choice((b"999999999", b"99999999999", b"9" * 18))
    return Asked(
        "a body announced as huge",
        head("POST", ECHO, b"content-length: " + length),
        frozenset({413, 429}),
        may_end=True,
    )


_KINDS: Final[tuple[tuple[Maker, int], ...]] = (
    (_upgrade, 10), (_h2c, 6), (_trailers, 6), (_extensions, 5), (_coding, 6), (_length, 5), (_chunk, 5), (_field, 10),
    (_many_fields, 4),
    (_host, 6), (_line, 8), (_url, 8), (_version, 5), (_token, 6), (_wrong_body, 8), (_any_body, 6), (_parameter, 5),
    (_refused, 14),
    (_deadline, 2), (_packed, 3), (_strings, 2), (_huge, 2),
)  # fmt: skip
_MAKERS: Final = [maker for maker, weight in _KINDS for _ in range(weight)]


def attack(label: str, dice: random.Random) -> Asked:
    """One of these requests."""
    if dice.randrange(400) == 0:
        return dice.choice((_bomb(label, dice), empty_strings(label, 50_000)))
    return dice.choice(_MAKERS)(label, dice)


def refused(label: str, dice: random.Random) -> Asked:
    """A wrong request that leaves its connection as it was: those around it must be answered."""
    return dice.choice((_refused, _refused, _wrong_body, _packed, _parameter, _any_body))(label, dice)
