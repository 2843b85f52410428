"""A producer that is not ours, and writes what its protocol allows: any bytes, nulls, any codec, in batches of its choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
LARGE = 256 * 1024 * 1024


class Name(str):
    """A header name of any bytes, which aiokafka gets from `encode`."""

    __slots__ = ("raw",)

    def __new__(cls, raw: bytes) -> Name:
        name = super().__new__(cls, repr(raw))
        name.raw = raw
        return name

    def encode(self, *_: Any) -> bytes:
        return self.raw


@dataclasses.dataclass
class Strange:
    """A record as it is written. Headers are bytes on both sides."""

    value: bytes | None = b"v"
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    key: bytes | None = None
    timestamp: int | None = None


def built(records: Sequence[Strange], codec: str | None = None) -> Any:
    """One batch, as aiokafka's pure-Python code writes it: its C code accepts no such header."""
    builder = _DefaultRecordBatchBuilderPy(2, CODECS[codec] if codec else 0, 0, -1, -1, -1, LARGE)
    for offset, record in enumerate(records):
        headers = [(Name(name), value) for name, value in record.headers]
        assert builder.append(offset, record.timestamp, record.key, record.value, headers)  # type: ignore[arg-type]
    return builder


async def write(
    bootstrap: str, topic: str, partition: int, records: Sequence[Strange | bytes], codec: str | None = None
) -> int:
    """Write all records as one batch, whatever it inflates to; returns its first offset."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, compression_type=codec, max_batch_size=LARGE, max_request_size=LARGE
    ) as producer:
        batch = producer.create_batch()
        batch._builder = built([Strange(record) if isinstance(record, bytes) else record for record in records], codec)
        batch._relative_offset = len(records)
        told = await (await producer.send_batch(batch, topic, partition=partition))
        return int(told.offset)
