"""Messages to bytes and back, as records (`frames`) and their headers; golden files pin every form. Pure.

A request is a frame of head and tail, a reply a frame of head, tail and timing. A simple producer sends the head's map alone, with
each tensor's bytes inline as `data`, or the V2 JSON body.

Invariant: any input bytes give a message or `CodecError`, nothing else.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from protocol import v2
from protocol.errors import Code, CodecError, quoted
from protocol.frames import (
    HEADS,
    WIRE_VERSION,
    decode_map,
    frame_parts,
    frame_start,
    join_frame,
    known_layout,
    names_of,
    pack,
    reply_names,
    tensor_heads,
    tensors_of,
    unpack,
    view_of,
)
from protocol.messages import (
    ANONYMOUS,
    Failure,
    InferReply,
    InferRequest,
    Parameters,
    Timing,
)
from protocol.ports import Headers, OutRecord, Payload, Record
from protocol.tensors import MAX_ELEMENTS, Buffer, Tensor

SCHEMA: Final = b"penstock/1"
MSGPACK: Final = b"application/msgpack"
JSON: Final = b"application/json"
_ACCEPTED: Final = frozenset({"", JSON.decode(), MSGPACK.decode()})
_STAMPS: Final = struct.Struct(">QQ")

_FIXED: Final = 1024
"""Bytes of a message besides its tensors, label and parameters: names of model and version, times, lengths."""
_FEW: Final = 8
"""Tensors of a request whose head is remembered."""
_PER_TENSOR: Final = 64
"""Bytes of a tensor's entry in a head besides its name and shape."""

MAX_NUMBER: Final = 10**17
"""The largest number in a header: in microseconds the year 5138. Every time up to it can be encoded again."""
_LATEST: Final = MAX_NUMBER / 1e6


def micros(seconds: float) -> int:
    """Seconds as whole microseconds, the wire's unit."""
    return round(seconds * 1e6)


def plausible(seconds: float) -> float:
    """A time from a caller; 0 (unknown) if it is negative, not a number or beyond `MAX_NUMBER` microseconds."""
    return seconds if 0 <= seconds <= _LATEST else 0.0


def encode_request(request: InferRequest) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The record's value and headers; see protocol/README.md for every header."""
    value = encode_inputs(request.inputs, request.outputs, request.parameters, request.label)
    return value, _headers(request)


def encode_inputs(inputs: Sequence[Tensor], outputs: tuple[str, ...], parameters: Parameters, label: str) -> bytes:
    """The value of a request's record."""
    if not label and not parameters and len(inputs) <= _FEW:
        start = request_start(outputs, *[(t.name, t.datatype, t.shape, len(t.data)) for t in inputs])
        return b"".join([start, *[t.data for t in inputs]])
    fields: dict[str, Any] = {"inputs": tensor_heads(inputs)}
    if label:
        fields["id"] = label
    if outputs:
        fields["outputs"] = outputs
    if parameters:
        fields["parameters"] = parameters
    return join_frame(pack(fields), inputs)


@functools.lru_cache(HEADS)
def request_start(outputs: tuple[str, ...], *tensors: tuple[str, str, tuple[int, ...], int]) -> bytes:
    """What a record's value has in front of the tensors' bytes, if it has no label and no parameters; many repeat.

    Args:
        outputs: names.
        tensors: name, datatype, shape and bytes of each input.
    """
    heads = [{"name": name, "datatype": kind, "shape": shape, "size": size} for name, kind, shape, size in tensors]
    fields: dict[str, Any] = {"inputs": heads}
    if outputs:
        fields["outputs"] = outputs
    return frame_start(pack(fields), sum([size for *_, size in tensors]))


def record_bytes(record: OutRecord | Record) -> tuple[bytes, Headers]:
    """A record's value and headers, made now if the record carries the message itself."""
    if record.request is not None:
        return encode_request(record.request)
    return bytes(record.value), record.headers


def as_bytes(records: Sequence[OutRecord]) -> Sequence[OutRecord]:
    """The records for a bus that takes bytes; nearly always as they are."""
    if all(record.request is None for record in records):
        return records
    return [OutRecord(*record_bytes(record), record.key, record.timestamp) for record in records]


def payload_bytes(payload: Payload) -> bytes:
    """An answer's bytes, made now if it is the message itself."""
    return payload if isinstance(payload, bytes) else encode_reply(payload)


def size_limit(tensors: Sequence[Tensor], label: str, parameters: Parameters) -> int:
    """At least the bytes of a message of the wire with these parts, by arithmetic; at most a few hundred more."""
    size = sum([len(each.data) + 4 * len(each.name) + 9 * len(each.shape) for each in tensors])
    if parameters:
        size += sum([14 + 4 * len(name) + 4 * len(str(value)) for name, value in parameters.items()])
    return size + _FIXED + _PER_TENSOR * len(tensors) + 4 * len(label)


def _headers(request: InferRequest) -> list[tuple[str, bytes]]:
    headers = [
        ("id", request.id.encode()),
        ("schema", SCHEMA),
        ("stamps", _STAMPS.pack(micros(request.accepted), micros(request.published))),
    ]
    if request.principal != ANONYMOUS:
        headers.append(("principal", request.principal.encode()))
    if request.reply_to:
        headers.append(("reply-to", request.reply_to.encode()))
    if request.deadline is not None:
        headers.append(("deadline", b"%d" % micros(request.deadline)))
    if request.priority:
        headers.append(("priority", b"%d" % request.priority))
    if request.timeout:
        headers.append(("timeout", b"%d" % micros(request.timeout)))
    if request.traceparent:
        headers.append(("traceparent", request.traceparent.encode()))
    if request.claimed:
        headers.append(("claimed", b"1"))
    if request.accept:
        headers.append(("accept", request.accept.encode()))
    return headers


def decode_request(  # noqa: PLR0913  # a record's parts, by name
    value: Buffer,
    headers: Headers,
    *,
    model: str,
    version: str,
    default_id: str,
    timestamp: float,
    most: int = MAX_ELEMENTS,
) -> InferRequest:
    """The request of one record.

    Args:
        value: msgpack or a V2 JSON body (`is_json`).
        headers: the record's; unknown ones are ignored, the last of repeated ones counts, and a null or empty value is absent.
        model, version: from the topic's name.
        default_id: the fleet id if no header has one (topic-partition-offset-timestamp).
        timestamp: the record's, in seconds; used if the producer sends no stamps.
        most: maximum number of BYTES elements to check here.

    Raises:
        CodecError: names what is wrong.
        ManyElements: it has more BYTES elements than `most`.
    """
    fields = dict(headers)
    schema = fields.get("schema") or SCHEMA
    if schema != SCHEMA:
        raise CodecError(f"schema {quoted(schema[:64])} is not known; this reader speaks {SCHEMA.decode()}")
    name = fields_text(fields, "id") or default_id
    if is_json(fields.get("content-type"), value):
        body = v2.parse_json_body(value, most)
        request = InferRequest(name, model, version, body.inputs, body.output_names, body.parameters, body.id)
        request.accept = JSON.decode()
    else:
        view = view_of(value)
        head, tail = frame_parts(view, 2) or (view, view[:0])
        layout = known_layout(head, tail, reply=False)
        if layout is not None:
            request = InferRequest(name, model, version, layout.cut(tail), layout.outputs)
        else:
            request = _request(name, model, version, decode_map(head), tail, most)
    _read_headers(request, fields, timestamp)
    return request


def is_json(content_type: bytes | None, value: Buffer) -> bool:
    """Whether a record is a V2 JSON body: by its `content-type` or, without one, by the brace with which no msgpack begins."""
    if content_type:
        return content_type == JSON
    return bytes(value[:1]) == b"{"


def _request(name: str, model: str, version: str, head: dict[str, Any], tail: memoryview, most: int) -> InferRequest:
    """The full decoder: for a label, parameters, inline data, or a fault."""
    inputs = tensors_of(head.get("inputs"), tail, "inputs", most)
    parameters = v2.check_parameters(head.get("parameters", {}), "the request")
    label = head.get("id", "")
    if type(label) is not str:
        raise CodecError("'id' must be a string")
    return InferRequest(name, model, version, inputs, names_of(head.get("outputs", ())), parameters, label)


def _read_headers(request: InferRequest, fields: Mapping[str, bytes | None], timestamp: float) -> None:
    stamps = fields.get("stamps")
    if stamps and len(stamps) == _STAMPS.size:
        accepted, published = _STAMPS.unpack(stamps)
        request.accepted, request.published = plausible(accepted / 1e6), plausible(published / 1e6)
    else:
        request.accepted = request.published = plausible(timestamp)
    request.reply_to = fields_text(fields, "reply-to")
    request.principal = fields_text(fields, "principal") or ANONYMOUS
    if deadline := fields.get("deadline"):
        request.deadline = _number(deadline, "deadline") / 1e6
    if priority := fields.get("priority"):
        request.priority = _number(priority, "priority")
    if timeout := fields.get("timeout"):
        request.timeout = _number(timeout, "timeout") / 1e6
    request.traceparent = fields_text(fields, "traceparent")
    request.claimed = bool(fields.get("claimed"))
    if fields.get("accept"):
        request.accept = fields_text(fields, "accept")
        if request.accept not in _ACCEPTED:
            kinds = f"{JSON.decode()} or {MSGPACK.decode()}"
            raise CodecError(f"header 'accept' must be {kinds}, not {quoted(request.accept[:64])}")


def fields_text(fields: Mapping[str, bytes | None], name: str) -> str:
    """A header's text; "" if absent or null.

    Raises:
        CodecError: it is not UTF-8 or longer than 1,024 bytes.
    """
    raw = fields.get(name)
    if not raw:
        return ""
    try:
        if len(raw) > 1024:
            raise CodecError(f"header '{name}' has {len(raw)} bytes; at most 1024 are allowed")
        return raw.decode()
    except UnicodeDecodeError:
        raise CodecError(f"header '{name}' is not UTF-8") from None


def _number(raw: bytes, name: str) -> int:
    number = int(raw) if raw.isdigit() and len(raw) <= 18 else MAX_NUMBER + 1
    if number > MAX_NUMBER:
        raise CodecError(f"header '{name}' must be a decimal number of at most {MAX_NUMBER}, not {quoted(raw[:32])}")
    return number


def encode_reply(reply: InferReply) -> bytes:
    """The payload of a terminal entry: head, tail and timing."""
    outputs = reply.outputs
    if reply.label or reply.parameters or reply.failure is not None:
        head = _full_head(reply)
    else:
        shown = [(t.name, t.datatype, t.shape, len(t.data)) for t in outputs]
        head = _reply_head(reply.model, reply.version, *shown)
    return join_frame(head, outputs, _pack_timing(reply.timing))


@functools.lru_cache(HEADS)
def _reply_head(model: str, version: str, *tensors: tuple[str, str, tuple[int, ...], int]) -> bytes:
    """The head of a reply with outputs only."""
    heads = [{"name": name, "datatype": kind, "shape": shape, "size": size} for name, kind, shape, size in tensors]
    return pack({"v": WIRE_VERSION, "model_name": model, "model_version": version, "outputs": heads})


def _full_head(reply: InferReply) -> bytes:
    head: dict[str, Any] = {"v": WIRE_VERSION, "model_name": reply.model, "model_version": reply.version}
    if reply.label:
        head["id"] = reply.label
    if reply.failure is not None:
        head["error"] = [reply.failure.code.value, reply.failure.message]
    else:
        head["outputs"] = tensor_heads(reply.outputs)
    if reply.parameters:
        head["parameters"] = reply.parameters
    return pack(head)


def _pack_timing(t: Timing) -> bytes:
    stamps = (
        t.accepted, t.published, t.fetched, t.enqueued, t.released, t.compute_start, t.compute_end, t.emitted,
    )  # fmt: skip
    micro = [int(seconds * 1e6 + 0.5) for seconds in stamps]
    if t.computed:
        rest = (t.batch_rows, t.batch_requests, t.attempt, t.worker, t.digest, int(t.computed * 1e6 + 0.5))
        return pack([*micro, t.reason, *rest])
    if not t.digest:
        return pack([*micro, t.reason, t.batch_rows, t.batch_requests, t.attempt, t.worker])
    return pack([*micro, t.reason, t.batch_rows, t.batch_requests, t.attempt, t.worker, t.digest])


def decode_reply(data: Buffer) -> InferReply:
    """The inverse of `encode_reply`; unknown fields are ignored.

    Raises:
        CodecError: the bytes are not a reply of a version this reader speaks.
    """
    parts = frame_parts(view_of(data), 3)
    if parts is None:
        raise CodecError("not a reply: it is not an array of head, tail and timing")
    first, tail, times = parts
    timing = _timing(times)
    layout = known_layout(first, tail, reply=True)
    if layout is not None:
        return InferReply(layout.model, layout.version, "", layout.cut(tail), {}, None, timing)
    head = decode_map(first)
    model, version = reply_names(head)
    error, label = head.get("error"), head.get("id", "")
    if type(label) is not str:
        raise CodecError("'id' must be a string")
    outputs = () if error is not None else tensors_of(head.get("outputs"), tail, "outputs", trusted=True)
    parameters = v2.check_parameters(head["parameters"], "the reply") if "parameters" in head else {}
    try:
        failure = Failure(Code(error[0]), str(error[1])) if error is not None else None
    except (KeyError, TypeError, ValueError, IndexError) as exc:
        raise CodecError(f"reply lacks or mistypes its error: {exc!r}") from None
    return InferReply(model, version, label, outputs, parameters, failure, timing)


def _timing(data: Buffer) -> Timing:
    try:
        a, p, f, e, r, cs, ce, em, reason, rows, requests, attempt, worker, *more = unpack(data)
        digest = more[0] if more else ""
        computed = more[1] / 1e6 if len(more) > 1 else 0.0
        if not (
            type(reason) is type(worker) is type(digest) is str and type(rows) is type(requests) is type(attempt) is int
        ):
            raise TypeError("its reason, worker and digest are texts, its rows, requests and attempt are whole numbers")
        return Timing(
            a / 1e6, p / 1e6, f / 1e6, e / 1e6, r / 1e6, cs / 1e6, ce / 1e6, em / 1e6, reason, rows, requests, attempt, worker,
            digest, computed,
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError) as exc:
        raise CodecError(f"reply lacks or mistypes its timing: {exc!r}") from None
