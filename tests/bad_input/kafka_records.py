"""Hostile records for a fleet's topics; they depend only on a seed and a number.

Records come in groups, one batch each, with one codec, transaction, model and partition. About half of the records are good; the
others are wrong in anything that a Kafka producer can choose.
"""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Sequence
from typing import Final

import msgpack
import numpy as np

from protocol.codec import JSON, MAX_NUMBER, MSGPACK, SCHEMA, encode_request
from protocol.messages import InferRequest
from protocol.tensors import from_array
from tests.bad_input.hostile import anything, mutated
from tests.transport.strangers import Strange

GROUP: Final = 40
"""Records of a group."""
MODELS: Final = ("same", "doubled")
"""One on a thread of the worker that returns its input; one in a process that doubles it."""
PARTITIONS: Final = 3
BOMB: Final = 48 * 1024 * 1024
"""Bytes of zeros: more than any batch may inflate to."""
HUGE: Final = 2 * 1024 * 1024

Pairs = list[tuple[bytes, bytes | None]]


def _value(model: str, number: int) -> bytes:
    return encode_request(InferRequest("r", model, "1", (from_array("X", np.array([[number]], np.float32)),)))[0]


_GOOD: Final = _value("same", 1)
_JSON: Final = b'{"inputs":[{"name":"X","shape":[1,1],"datatype":"FP32","data":[7]}]}'
_NAMES: Final = (
    b"id", b"principal", b"reply-to", b"deadline", b"priority", b"timeout", b"traceparent", b"claimed", b"stamps", b"schema",
    b"accept",
    b"content-type", b"redrive-of", b"dead-reason", b"dead-topic", b"__connect.errors.topic",
)  # fmt: skip
_STAMPS: Final = (-1, 0, 1, 2**53, 1_700_000_000_000_000_000, 2**62)
_CODECS: Final = (None, None, "gzip", "snappy", "lz4", "zstd")


@dataclasses.dataclass(frozen=True)
class Group:
    """One batch.

    Attributes:
        number: of its first record.
        topic: a model of `MODELS`.
        codec: None, or as Kafka calls it.
        transaction: "", "commit" or "abort".
        good: by request id, the number whose answer is due; none if the group never becomes requests.
    """

    number: int
    model: str
    partition: int
    codec: str | None
    transaction: str
    records: Sequence[Strange]
    good: dict[str, int]


def group(seed: int, number: int, channel: bytes, count: int = GROUP) -> Group:
    """The group whose first record has this number.

    Args:
        seed, number: determine the group.
        channel: on which the sender of good requests is woken.
        count: of records.
    """
    dice = random.Random(f"{seed} group {number}")
    model, partition = dice.choice(MODELS), dice.randrange(PARTITIONS)
    codec, transaction = dice.choice(_CODECS), dice.choice(("", "", "", "", "", "commit", "abort"))
    good: dict[str, int] = {}
    records: list[Strange] = []
    for each in range(number, number + count):
        records += _records(random.Random(f"{seed} {each}"), model, each, channel, good)
    if codec and not transaction and dice.randrange(60) == 0:
        return Group(number, model, partition, codec, "", [Strange(bytes(BOMB))], {})
    return Group(number, model, partition, codec, transaction, records, {} if transaction == "abort" else good)


def _records(dice: random.Random, model: str, number: int, channel: bytes, good: dict[str, int]) -> list[Strange]:
    """One, or the same request twice."""
    if dice.randrange(2):
        return [_strange(dice, number, channel)]
    name = f"g{number}"
    good[name] = number
    sent = Strange(
        _value(model, number), _told(name, channel), dice.choice((None, b"", b"key")), dice.choice((None, None, 0))
    )
    return [sent] * (2 if dice.randrange(12) == 0 else 1)


def _told(name: str, channel: bytes) -> Pairs:
    return [(b"id", name.encode()), (b"schema", SCHEMA), (b"reply-to", channel)]


def _strange(dice: random.Random, number: int, channel: bytes) -> Strange:
    headers = [_header(dice, channel) for _ in range(dice.choice((0, 1, 2, 3, 6)))]
    if dice.randrange(4) == 0:
        headers = [*_told(dice.choice((f"s{number}", "one id for many")), channel), *headers]
    if dice.randrange(100) == 0 and sum(len(value or b"") for _, value in headers) < 4096:  # a batch has 17 MB at most
        headers *= 300
    return Strange(_content(dice), headers, _key(dice), dice.choice(_STAMPS) if dice.randrange(3) == 0 else None)


def _key(dice: random.Random) -> bytes | None:
    if dice.randrange(200) == 0:
        return bytes(HUGE)
    return dice.choice((None, b"", dice.randbytes(dice.randrange(40))))


def _content(dice: random.Random) -> bytes | None:
    match dice.randrange(12):
        case 0:
            return dice.choice((None, b""))
        case 1:
            return dice.randbytes(dice.randrange(300))
        case 2:
            return bytes(msgpack.packb(anything(dice)))
        case 3:
            return dice.randbytes(dice.randrange(HUGE)) if dice.randrange(40) == 0 else mutated([_JSON], dice)
        case 4 | 5:
            return _GOOD
        case 6:
            return _JSON
        case _:
            return mutated([_GOOD, _JSON], dice)


def _header(dice: random.Random, channel: bytes) -> tuple[bytes, bytes | None]:
    name = dice.choice(_NAMES) if dice.randrange(4) else dice.randbytes(dice.randrange(8))
    match dice.randrange(8):
        case 0:
            return name, None
        case 1:
            return name, b""
        case 2:
            return name, dice.randbytes(dice.randrange(40))
        case 3:
            return name, b"%d" % dice.choice((0, 1, MAX_NUMBER, MAX_NUMBER + 1, 2**63, 10**18, 10**300))
        case 4:
            return name, struct.pack(">QQ", dice.choice((0, 2**63, 2**64 - 1)), dice.choice((1, 2**64 - 1)))
        case 5:
            return name, dice.choice((SCHEMA, JSON, MSGPACK, channel, b"1", b"penstock/2", b"\xff\xfe"))
        case 6:
            return name, b"x" * dice.choice((1024, 1025, 100_000))
        case _:
            return dice.choice(_NAMES), dice.choice((channel, b"id", b"somebody:else", _topic(dice, channel)))


def _topic(dice: random.Random, channel: bytes) -> bytes:
    """A `reply-to` of a topic: of this fleet, of another, or of none."""
    prefix = dice.choice((channel.partition(b":")[0], b"other", b""))
    return b"kafka:%b.results.%b" % (
        prefix,
        dice.choice((b"fuzz%d" % dice.randrange(3), b"a.b", b"", b"\0", b"x" * 500)),
    )
