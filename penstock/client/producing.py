"""`BatchProducer`: batch requests straight into Kafka, without a gateway."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import secrets
import time
from asyncio import get_running_loop
from collections.abc import Callable, Mapping, Sequence
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from penstock.client.outbox import OVERHEAD, Delivery, Outbox
from penstock.client.requests import tensor_of
from protocol import v2
from protocol.codec import JSON, MSGPACK, encode_inputs, encode_request, micros, request_start
from protocol.errors import InvalidArgument, TooLarge, quoted
from protocol.frames import MAX_RECORD
from protocol.messages import InferRequest, Lane
from protocol.naming import MAX_ID, Names
from protocol.ports import OutRecord
from protocol.tensors import NUMPY_DTYPE, Tensor
from protocol.transport import open_bus
from protocol.transport.settings import TransportSettings

_ACCEPTS: Final = {"json": JSON, "msgpack": MSGPACK}
_DATATYPES: Final = {dtype: name for name, dtype in NUMPY_DTYPE.items() if name not in ("BF16", "BYTES")}
_HASTE: Final = 5.0
"""Seconds for what is buffered when the block of `async with` raised."""


class BatchProducer:
    """Publishes batch requests to Kafka. It belongs to one event loop.

        async with BatchProducer("localhost:9092", results="night-run") as producer:
            for number, row in enumerate(rows):
                await producer.send("digits", {"image": row}, id=f"job-{number}")

    `send` returns when the record is buffered, and waits while the buffer is full. `on_delivery` is told once about every record:
    its place in the log, or the error. While no broker answers, a record is sent again until `delivery_timeout`, and then told as
    failed. It may be in the log all the same, or be there twice: an id is answered once, so sending it again does no harm.

    Args:
        kafka: bootstrap servers, `HOST:PORT[,…]`.
        results: name of the topic that gets the answers, `<prefix>.results.<name>` (see `read_results`), which is made if it is
            missing; "" keeps answers in the fleet's store, by id.
        prefix: of the fleet's topics.
        accept: form of the answers on that topic, "msgpack" or "json".
        lane: the queue that the requests wait in.
        partitions: of a request topic that is made here, at its first use.
        max_buffered_bytes: memory for records that are not acknowledged; `send` waits at this size.
        delivery_timeout: seconds.
        on_delivery: called on the event loop; must be quick.
        connect_timeout: seconds until `open` gives up.
        security: as `TransportSettings.kafka_security`.

    Attributes:
        delivered, failed: how many records were told so far.

    Raises:
        InvalidArgument: an argument is wrong.
    """

    def __init__(  # noqa: PLR0913  # all by name
        self,
        kafka: str,
        *,
        results: str = "",
        prefix: str = "penstock",
        accept: str = "msgpack",
        lane: Lane = Lane.BATCH,
        partitions: int = 4,
        max_buffered_bytes: int = 64 * 1024 * 1024,
        delivery_timeout: float = 120.0,
        on_delivery: Callable[[Delivery], object] | None = None,
        connect_timeout: float = 30.0,
        security: Mapping[str, str] | None = None,
    ) -> None:
        if accept not in _ACCEPTS:
            raise InvalidArgument(f"accept must be {' or '.join(_ACCEPTS)}, not {quoted(accept)}")
        if partitions < 1 or max_buffered_bytes < 1 or not 0 < delivery_timeout < float("inf"):
            raise InvalidArgument("partitions, max_buffered_bytes and delivery_timeout must be positive")
        self._settings = TransportSettings(
            kafka=kafka, prefix=prefix, connect_timeout=connect_timeout, kafka_security=dict(security or {}), bus_only=True
        )  # fmt: skip
        self._bus = open_bus(self._settings)
        self._names = Names(prefix)
        self._results = self._names.results_topic(results) if results else ""
        self._reply_to = self._names.reply_to_topic(results) if results else ""
        self._accept = _ACCEPTS[accept].decode() if results else ""
        self._lane = Lane(lane)
        self._most = max_buffered_bytes
        self._outbox: Outbox | None = None
        self._make_outbox = functools.partial(Outbox, self._bus, partitions, delivery_timeout, on_delivery)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._run, self._numbers = secrets.token_hex(8), itertools.count()
        self._topics: dict[tuple[str, str], str] = {}
        headers = [("reply-to", self._reply_to.encode()), ("accept", self._accept.encode())] if results else []
        self._headers: list[tuple[str, bytes]] = headers
        self._headers_size = sum(len(name) + len(value) for name, value in headers) + len("id")

    @property
    def delivered(self) -> int:
        """Records that the broker has."""
        return self._outbox.delivered if self._outbox is not None else 0

    @property
    def failed(self) -> int:
        """Records that were told as failed."""
        return self._outbox.failed if self._outbox is not None else 0

    @property
    def buffered_bytes(self) -> int:
        """Memory of the records that were not told yet."""
        return self._outbox.buffered if self._outbox is not None else 0

    async def open(self) -> None:
        """Connect; makes the topic of answers.

        Raises:
            Unavailable: no broker answers within the connect timeout.
            InvalidArgument: it is open.
        """
        if self._loop is not None:
            raise InvalidArgument("the producer is open already")
        await self._bus.open()
        try:
            if self._results:
                await self._bus.ensure_topic(self._results, 1)
        except BaseException:
            await self._bus.close()
            raise
        self._loop = get_running_loop()
        self._thread = get_ident()
        self._outbox = self._make_outbox()

    async def close(self, timeout: float | None = None) -> None:
        """Wait until every record was told, and disconnect; after `timeout` seconds the rest is told as failed."""
        if self._loop is None:
            return
        self._loop, self._thread = None, 0
        assert self._outbox is not None
        try:
            await self._outbox.close(timeout)
        finally:
            await self._bus.close()

    async def flush(self) -> None:
        """Wait until every record that was sent so far was told, and those sent meanwhile."""
        await self._opened().wait_below(0)

    async def send(  # noqa: PLR0913  # all by name
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike | Tensor],
        *,
        id: str = "",  # noqa: A002  # the header's name
        version: str = "1",
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        label: str = "",
        deadline: float | None = None,
    ) -> str:
        """Buffer one request; waits while the buffer is full. The arrays may be changed after it returns.

        Args:
            model, version: which model; a version that no worker serves keeps its requests until one does.
            inputs: arrays by name, with a leading batch dimension, which may be above the model's `max_batch_size`; a `Tensor`
                where the array's dtype does not say the datatype (BF16).
            id: 1 to 256 characters, unique in the fleet; a repeated id is answered once. By default a random one.
            outputs: names of the wanted outputs; empty for all.
            parameters: custom parameters for the model.
            label: comes back with the answer, as V2's `id`.
            deadline: seconds since the epoch on Redis' clock; no batch starts with the request after it.

        Returns:
            The id.

        Raises:
            FleetError: the request is invalid or too large, or the producer is not open; nothing was buffered.
        """
        outbox = self._outbox
        if outbox is None or self._thread != get_ident():  # asking for the loop would be a system call
            outbox = self._opened()
        name = id or f"{self._run}-{next(self._numbers)}"
        raw = _id_bytes(name)
        if parameters or label:
            tensors = [_tensor(key, value) for key, value in inputs.items()]
            checked = v2.check_parameters(dict(parameters or {}), "the request")
            value = encode_inputs(tensors, tuple(outputs), checked, label)
        else:
            value = _plain_value(inputs, tuple(outputs))
        headers = [("id", raw), *self._headers]
        if deadline is not None:
            headers.append(("deadline", b"%d" % micros(deadline)))
        topic = self._topics.get((model, version)) or self._topic(model, version)
        size = len(value) + len(raw) + self._headers_size
        if size > MAX_RECORD or outbox.buffered + size + OVERHEAD > self._most:
            await self._wait_for_room(outbox, value, name, size)
        if outbox.add(topic, OutRecord(value, headers), name, size):
            await asyncio.sleep(0)
        return name

    async def send_request(self, request: InferRequest) -> str:
        """Buffer a request that is made already; as `send`. An empty `reply_to` or `accept` becomes the producer's."""
        outbox = self._opened()
        now = time.time()
        request = dataclasses.replace(
            request,
            reply_to=request.reply_to or self._reply_to,
            accept=request.accept or self._accept,
            accepted=request.accepted or now,
            published=request.published or now,
        )
        _id_bytes(request.id)
        value, headers = encode_request(request)
        topic = self._topic(request.model, request.version)
        size = len(value) + sum([len(name) + len(text) for name, text in headers])
        await self._wait_for_room(outbox, value, request.id, size)
        if outbox.add(topic, OutRecord(value, headers), request.id, size):
            await asyncio.sleep(0)
        return request.id

    async def _wait_for_room(self, outbox: Outbox, value: bytes, name: str, size: int) -> None:
        if len(value) > MAX_RECORD:
            raise TooLarge(f"request {quoted(name)} has {len(value)} bytes; at most {MAX_RECORD} are allowed")
        if outbox.buffered and outbox.buffered + size + OVERHEAD > self._most:
            await outbox.wait_below(max(0, self._most - size - OVERHEAD))
            self._opened()

    def _topic(self, model: str, version: str) -> str:
        topic = self._topics[model, version] = self._names.request_topic(model, version, self._lane)
        return topic

    def _opened(self) -> Outbox:
        """The outbox.

        Raises:
            InvalidArgument: the producer is not open, or belongs to another event loop.
        """
        if self._loop is None:
            raise InvalidArgument("the producer is not open: use it inside 'async with', or call open()")
        if self._loop is not get_running_loop():
            raise InvalidArgument("the producer is used by another event loop: make one for each loop")
        assert self._outbox is not None
        return self._outbox

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(None if kind is None else _HASTE)


def _id_bytes(name: str) -> bytes:
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"id {quoted(name)} is not valid Unicode") from None
    if not 0 < len(name) <= MAX_ID:
        raise InvalidArgument(f"an id must have 1 to {MAX_ID} characters, not {len(name)}")
    return raw


def _plain_value(inputs: Mapping[str, npt.ArrayLike | Tensor], outputs: tuple[str, ...]) -> bytes:
    """The value of a record without label and parameters, by the shortest way."""
    shown, parts = [], [b""]
    for name, value in inputs.items():
        if type(value) is np.ndarray and (datatype := _DATATYPES.get(value.dtype)) is not None:
            data = value.tobytes()
            shown.append((name, datatype, value.shape, len(data)))
        else:
            tensor = _tensor(name, value)
            data = bytes(tensor.data)
            shown.append((tensor.name, tensor.datatype, tensor.shape, len(data)))
        parts.append(data)
    parts[0] = request_start(outputs, *shown)
    return b"".join(parts)


def _tensor(name: str, value: npt.ArrayLike | Tensor) -> Tensor:
    """The value as a tensor with its own bytes.

    Raises:
        CodecError: it is not an array, or its dtype has no V2 datatype.
    """
    made = tensor_of(name, value)
    return Tensor(made.name, made.datatype, tuple(made.shape), bytes(made.data))
