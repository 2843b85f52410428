"""Replies that name brokers name the proxies instead, in every version that aiokafka may ask for; nothing else is touched."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka.protocol import coordination, metadata

from penstock.verify.fleet.kafka_frames import Address, replaced, to_be_read

TOPICS = [(0, "orders", [(0, 0, 2, [1, 2], [2])])]
BROKERS = [(1, "one.example", 9092), (2, "two", 9093)]


def here(broker: Address) -> Address:
    return "127.0.0.1", broker[1] + 10_000


def a_reply(version: int, brokers: list[tuple[int, str, int]]) -> Any:
    """A Metadata reply of aiokafka's own making."""
    racks = [(*broker, None if broker[0] == 1 else "rack") if version else broker for broker in brokers]
    topics = [
        (error, name, *((False,) if version else ()), [(*part, *(([],) if version >= 5 else ())) for part in parts])
        for error, name, parts in TOPICS
    ]
    fields = [
        *((7,) if version >= 3 else ()), racks, *(("cluster",) if version >= 2 else ()), *((2,) if version else ()), topics,
    ]  # fmt: skip
    return getattr(metadata, f"MetadataResponse_v{version}")(*fields)


@pytest.mark.parametrize("version", range(6))
def test_metadata_names_the_proxies(version: int) -> None:
    expected = a_reply(version, [(node, "127.0.0.1", port + 10_000) for node, _, port in BROKERS])

    assert replaced(3, version, a_reply(version, BROKERS).encode(), here) == expected.encode()


def test_a_coordinator_is_named_by_its_proxy() -> None:
    old, new = coordination.FindCoordinatorResponse_v0, coordination.FindCoordinatorResponse_v1

    assert replaced(10, 0, old(0, 1, "one", 9092).encode(), here) == old(0, 1, "127.0.0.1", 19_092).encode()
    assert (
        replaced(10, 1, new(0, 0, None, 1, "one", 9092).encode(), here)
        == new(0, 0, None, 1, "127.0.0.1", 19_092).encode()
    )


def test_no_coordinator_stays_none() -> None:
    reply = coordination.FindCoordinatorResponse_v0(15, -1, "", -1).encode()

    assert replaced(10, 0, reply, here) == reply


def test_only_replies_that_name_brokers_are_read() -> None:
    assert to_be_read(struct.pack(">hhi", 3, 5, 77)) == (77, 3, 5)
    assert to_be_read(struct.pack(">hhi", 10, 1, 78)) == (78, 10, 1)
    assert to_be_read(struct.pack(">hhi", 1, 4, 79)) is None  # a fetch
    assert to_be_read(struct.pack(">hhi", 3, 12, 80)) is None  # flexible fields
    assert to_be_read(b"short") is None


def test_a_reply_that_ends_too_soon_is_an_error_and_not_a_wrong_address() -> None:
    with pytest.raises(ValueError, match="too soon"):
        replaced(3, 1, a_reply(1, BROKERS).encode()[:20], here)
