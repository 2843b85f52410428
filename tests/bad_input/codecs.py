"""One input for one decoder, made from a number. A decoder returns a message or raises one of our errors, whatever the input."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gateway.handle import Handle, sign, verify
from gateway.rest.compression import compress, decompress
from protocol import v2
from protocol.codec import decode_reply, decode_request, encode_request
from protocol.errors import FleetError
from protocol.heartbeat_codec import decode_announcement, decode_heartbeat
from protocol.messages import InferRequest
from protocol.model_config.pbtxt import parse
from protocol.tensors import Tensor, bytes_elements, from_array
from tests.bad_input.hostile import BODY, mutated

GOLDEN = Path(__file__).parent.parent / "protocol" / "golden"
KEY = b"a key for the fuzzer"


def _golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.v1.bin").read_bytes()


REQUEST, HEADERS = encode_request(
    InferRequest(
        "r", "m", "1", (from_array("X", np.ones((1, 3), np.float32)), from_array("S", np.array([b"a", b"bc"], object))), ("Y",),
        {"p": 1, "q": "text", "r": True, "s": 0.5}, "label", "alice", "penstock:gateway:g", 5.0, 1, 0.5, "", True, 1.0,
    )
)  # fmt: skip
CONFIG = b'name: "m" backend: "identity" max_batch_size: 4 input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]'
PACKED = compress([BODY], "gzip")
EMPTY = b"x\x9c\x03\x00\x00\x00\x00\x01"
HANDLE = sign(Handle("penstock.infer.m.1", 0, 1, "i", "-", "f", False), KEY).encode()


def _touch(tensors: tuple[Tensor, ...]) -> None:
    """Use the decoded tensors: the model must not be the first to find a wrong size."""
    for tensor in tensors:
        if tensor.datatype == "BYTES":
            bytes_elements(tensor)
        else:
            tensor.array()


def _request(data: bytes, dice: random.Random) -> None:
    headers = list(HEADERS)
    if dice.randrange(3) == 0:
        at = dice.randrange(len(headers))
        headers[at] = (headers[at][0], mutated([headers[at][1] or b"x"], dice))
    request = decode_request(data, headers, model="m", version="1", default_id="d", timestamp=1.0)
    _touch(request.inputs)


def _json_request(data: bytes, dice: random.Random) -> None:
    headers = [("content-type", b"application/json"), ("id", b"i")]
    _touch(decode_request(data, headers, model="m", version="1", default_id="d", timestamp=1.0).inputs)


def _v2(data: bytes, dice: random.Random) -> None:
    length = dice.choice((None, None, len(data), dice.randrange(len(data) + 2)))
    _touch(v2.parse_body(data, length).inputs)


DECODERS: tuple[tuple[str, Callable[[bytes, random.Random], object], tuple[bytes, ...]], ...] = (
    ("request", _request, (REQUEST,)),
    ("JSON request", _json_request, (BODY,)),
    ("V2 body", _v2, (BODY, BODY + b"\0\0\0\0")),
    ("reply", lambda data, dice: _touch(decode_reply(data).outputs), (_golden("reply"), _golden("failure"))),
    ("announcement", lambda data, dice: decode_announcement(data), (_golden("announcement"),)),
    ("heartbeat", lambda data, dice: decode_heartbeat(data), (_golden("heartbeat"),)),
    (
        "gzip",
        lambda data, dice: decompress(data, dice.choice(("gzip", "deflate")), 4096),
        (PACKED, b"x\x9c\x03\x00\x00\x00\x00\x01"),
    ),
    ("handle", lambda data, dice: verify(data.decode("latin-1"), KEY), (HANDLE,)),
    ("config.pbtxt", lambda data, dice: parse(data), (CONFIG,)),
)


def attempt(seed: int, number: int) -> str:
    """The problem with handling that input; "" for none."""
    dice = random.Random(seed * 1_000_000_007 + number)
    name, decode, seeds = DECODERS[number % len(DECODERS)]
    data = mutated(seeds, dice)
    try:
        decode(data, dice)
    except FleetError as error:
        return "" if len(error.message) < 4000 else f"{name} {number}: the message has {len(error.message)} characters"
    except Exception as error:
        return f"{name} {number}: {type(error).__name__}: {error} for {data[:300]!r}"
    return ""
