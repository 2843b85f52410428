"""Requests and responses as bytes, against aiokafka's own."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7

from protocol.transport.kafka import wire
from protocol.transport.kafka.wire import Fetched, Produced

TOPIC = b"penstock.infer.m.1"


def whole(request: Any, correlation: int, client: str) -> bytes:
    """A request of aiokafka's as it is sent."""
    header = request.build_request_header(correlation_id=correlation, client_id=client)
    message: bytes = header.encode() + request.encode()
    return len(message).to_bytes(4) + message


def partition(number: int, *, error: int = 0, aborted: Any = None, data: bytes = b"") -> tuple[Any, ...]:
    return number, error, 10 * number, 9 * number, 0, aborted, -1, data


def response(*partitions: tuple[Any, ...], error: int = 0, topics: int = 1) -> bytes:
    encoded: bytes = FetchResponse_v11(0, error, 0, [(TOPIC.decode(), list(partitions))] * topics).encode()
    return encoded


class TestProduce:
    def test_the_request_is_aiokafkas(self) -> None:
        theirs = ProduceRequest_v7(None, -1, 10_000, [(TOPIC.decode(), [(3, b"a batch")])])
        ours = wire.request(wire.PRODUCE, 77, b"a client", wire.produce(TOPIC, 3, b"a batch", 10_000))
        assert ours == whole(theirs, 77, "a client")

    @pytest.mark.parametrize("answer", [(0, 77, -1, 5), (45, -1, -1, -1), (0, 1 << 40, 1_700_000_000_000, 0)])
    def test_the_response_is_read(self, answer: tuple[int, int, int, int]) -> None:
        body = ProduceResponse_v7([(TOPIC.decode(), [(3, *answer)])], 0).encode()
        assert wire.produced(body, TOPIC) == Produced(*answer)


class TestFetch:
    def test_the_request_is_aiokafkas(self) -> None:
        asked = [(1, -1, 10, -1, 99), (2, -1, 1 << 40, -1, 99)]
        theirs = FetchRequest_v11(-1, 500, 1, 1000, 1, 0, -1, [(TOPIC.decode(), asked)], [], "")
        ours = wire.request(wire.FETCH, 7, b"w0", wire.fetch(TOPIC, [(1, 10), (2, 1 << 40)], (500, 1, 1000, 99), 1))
        assert ours == whole(theirs, 7, "w0")

    def test_the_response_is_read(self) -> None:
        body = response(partition(1, aborted=[(5, 6), (7, 8)], data=b"batches"), partition(2, aborted=[]), partition(0))
        assert wire.fetched(body) == [
            Fetched(1, 10, 9, [(5, 6), (7, 8)], b"batches"),
            Fetched(2, 20, 18, [], b""),
            Fetched(0, 0, 0, [], b""),
        ]

    def test_nothing_is_nothing(self) -> None:
        assert wire.fetched(response(topics=0)) == []

    @pytest.mark.parametrize(
        "body", [response(partition(1, error=6)), response(partition(1), error=71), response(partition(1), topics=2)]
    )
    def test_anything_else_is_aiokafkas(self, body: bytes) -> None:
        assert wire.fetched(body) is None
