"""Hostile input: HTTP requests and records that are wrong in every way we could think of, from a seed."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence

import msgpack

from tests.gateway.fleet import raw_request

BODY = json.dumps(
    {
        "id": "1",
        "inputs": [
            {"name": name, "datatype": "FP32", "shape": [1, 16], "data": list(range(16))}
            for name in ("INPUT0", "INPUT1")
        ],
    }
).encode()
DEEP = b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BOMB = gzip.compress(gzip.compress(bytes(64 * 1024 * 1024)))
"""64 MB of zeros in a few hundred bytes; still small when unpacked once."""
INNER_BOMB = gzip.compress(bytes(64 * 1024 * 1024))

HTTP: dict[str, tuple[bytes, str]] = {
    "nested a hundred thousand deep": (raw_request(DEEP), "400"),
    "nested deep in data": (
        raw_request(
            b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,16],"data":' + b"[" * 5000 + b"]" * 5000 + b"}]}"
        ),
        "400",
    ),
    "a decompression bomb": (raw_request(INNER_BOMB, "content-encoding: gzip"), "413"),
    "a bomb in a bomb": (raw_request(BOMB, "content-encoding: gzip"), "400"),
    "a flood of headers": (raw_request(BODY, *[f"x-{n}: {'v' * 50}" for n in range(5000)]), "431"),
    "one endless header": (raw_request(BODY, "x: " + "v" * 1_000_000), "431"),
    "an endless target": (raw_request(BODY, path="/v2/models/" + "a" * 1_000_000 + "/infer"), "431"),
    "a body announced as huge": (raw_request(b"", "content-length: 99999999999"), "413"),
    "a length that is not a number": (raw_request(b"", "content-length: -1"), "400"),
    "two lengths": (raw_request(BODY, f"content-length: {len(BODY)}", "content-length: 3"), "400"),
    "a length and chunks": (raw_request(BODY, "content-length: 5", "transfer-encoding: chunked"), "400"),
    "a chunk of no size": (raw_request(b"zz\r\n", "transfer-encoding: chunked"), "400"),
    "bad UTF-8 in the body": (raw_request(b'{"inputs":[{"name":"\xff\xfe"}]}'), "400"),
    "half a surrogate": (raw_request(b'{"inputs":[{"name":"\\ud800"}]}'), "400"),
    "bad UTF-8 in the target": (raw_request(BODY, path="/v2/models/%ff%fe/infer"), "404"),
    "a path that climbs": (raw_request(BODY, path="/v2/models/..%2f..%2fetc%2fpasswd/infer"), "404"),
    "a shape that overflows": (
        raw_request(b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[9223372036854775807,16],"data":[]}]}'),
        "400",
    ),
    "a number without end": (
        raw_request(
            b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,16],"data":[' + b"9" * 100_000 + b"]}]}"
        ),
        "400",
    ),
    "NaN": (raw_request(BODY.replace(b"[0, 1", b"[NaN, 1")), "400"),
    "binary data that is not there": (raw_request(BODY, "inference-header-content-length: 999999"), "400"),
    "an empty key": (raw_request(BODY, "idempotency-key: "), "400"),
    "a key of a kilobyte": (raw_request(BODY, "idempotency-key: " + "k" * 1024), "400"),
    "a timeout that is not a number": (raw_request(BODY, "penstock-timeout-ms: 1e9"), "400"),
    "not HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50, "400"),
    "a forged handle": (
        raw_request(b"", path="/v2/requests/eyJ.AAAAAAAAAAAAAAAAAAAAAA", method="GET"),
        "404",
    ),
}
"""By name: the bytes, and the status of the error."""


def noise(dice: random.Random) -> bytes:
    """A request with a fault, or noise unlike a request, or several of them in one write."""
    request = bytearray(raw_request(BODY, *(["connection: close"] * dice.randrange(2))))
    if dice.randrange(8) == 0:
        request = bytearray(dice.choice(tuple(HTTP.values()))[0][:4000])
    _mutate(request, dice)
    if dice.randrange(6) == 0:
        return bytes(dice.randbytes(dice.randrange(1, 2000)))
    return bytes(request) * dice.choice((1, 1, 1, 3))


def _mutate(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del data[at : at + dice.randrange(20)]
            case 2:
                data[at:at] = dice.randbytes(dice.randrange(30))
            case 3:
                data[at:at] = data[: dice.randrange(60)]
            case _:
                data[at : at + 1] = dice.choice(
                    (b"\r\n", b"\0", b"\xff", b"[" * 40, b"-1", b"99999999999999999999", b'"')
                )


def mutated(seeds: Sequence[bytes], dice: random.Random) -> bytes:
    """One of these with a fault, two of them spliced, or noise."""
    match dice.randrange(10):
        case 0:
            return dice.randbytes(dice.randrange(200))
        case 1:
            one, other = dice.choice(seeds), dice.choice(seeds)
            return one[: dice.randrange(len(one) + 1)] + other[dice.randrange(len(other) + 1) :]
        case 2:
            return bytes(msgpack.packb(anything(dice)))
        case _:
            data = bytearray(dice.choice(seeds))
            _mutate(data, dice)
            return bytes(data)


def anything(dice: random.Random, depth: int = 0) -> object:
    """A random value; maps use our field names."""
    match dice.randrange(9 if depth < 4 else 6):
        case 0:
            return dice.choice((None, True, False))
        case 1:
            return dice.choice((0, -1, 2**63 - 1, -(2**63), 2**64 - 1, dice.randrange(-1000, 1000)))
        case 2:
            return dice.choice((0.0, float("nan"), float("inf"), -1e308))
        case 3:
            return dice.randbytes(dice.randrange(20))
        case 4:
            return dice.choice(_NAMES)
        case 5:
            return "é" * dice.randrange(5)
        case 6:
            return [anything(dice, depth + 1) for _ in range(dice.randrange(5))]
        case _:
            return {dice.choice(_NAMES): anything(dice, depth + 1) for _ in range(dice.randrange(6))}


_NAMES = (
    "inputs", "outputs", "parameters", "id", "name", "datatype", "shape", "data", "size", "v", "model_name", "model_version",
    "error", "stamps", "release", "batch", "attempt", "worker", "FP32", "BYTES", "BOOL", "INT64", "X", "INPUT0", "m", "1",
    "binary_data_size", "priority", "timeout", "state", "config", "digest", "reason", "at", "partitions", "models", "members",
)  # fmt: skip
