"""Messages to bytes and back. The only place that knows msgpack; golden files pin every form.

A record's value is one msgpack array of two binaries, `[head, tail]`: the head is a msgpack map (an Open Inference Protocol
request or reply), the tail is all tensors' raw bytes, one after the other, each `size` bytes of the head's tensor. Because both
lengths stand in front, tensors are read as views of the record without a copy. A producer that finds this awkward sends the map
alone, with each tensor's bytes inline as `data`; or the V2 JSON body (`content-type: application/json`).

Invariant: any input bytes give a message or `CodecError`, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack

from protocol import v2
from protocol.errors import Code, CodecError
from protocol.messages import (
    ANONYMOUS,
    Failure,
    InferReply,
    InferRequest,
    Timing,
)
from protocol.tensors import ITEM_SIZE, MAX_RANK, Buffer, Tensor, check_shape, check_size

WIRE_VERSION: Final = 1
"""Readers accept this version and the one before it; anything else goes to the dead letters."""
SCHEMA: Final = b"penstock/1"
MSGPACK: Final = b"application/msgpack"
JSON: Final = b"application/json"
MAX_RECORD: Final = 16 * 1024 * 1024
"""Bytes of one record; topics, producer and consumer are set to allow it."""

_BIN32: Final = 0xC6
_ARRAY2: Final = 0x92
_STAMPS: Final = struct.Struct(">QQ")
_LENGTH: Final = struct.Struct(">I")
_BINARY: Final = struct.Struct(">BI")

_PACKER: Final = msgpack.Packer(use_bin_type=True, autoreset=True)
"""Shared: `pack` runs to its end without letting go of the interpreter's lock, and making a packer takes longer than packing."""

Headers = Sequence[tuple[str, bytes]]


def pack(value: object) -> bytes:
    """Plain data as msgpack."""
    packed: bytes = _PACKER.pack(value)
    return packed


def unpack(data: Buffer) -> Any:
    """Plain data from msgpack, with limits.

    Raises:
        CodecError: the bytes are not one msgpack value.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as exc:
        raise CodecError(f"not a msgpack value: {type(exc).__name__} {exc}") from None


def _join(head: dict[str, Any], tensors: Sequence[Tensor]) -> bytes:
    packed = pack(head)
    size = sum([len(tensor.data) for tensor in tensors])
    return b"".join(
        (b"\x92\xc6", _LENGTH.pack(len(packed)), packed, b"\xc6", _LENGTH.pack(size), *[t.data for t in tensors])
    )


def split(value: Buffer) -> tuple[dict[str, Any], memoryview]:
    """The head's map and a view of the tail (empty for a map alone).

    Raises:
        CodecError: it is neither of the two, or over `MAX_RECORD`.
    """
    if len(value) > MAX_RECORD:
        raise CodecError(f"record has {len(value)} bytes; at most {MAX_RECORD} are allowed")
    size = len(value)
    view = memoryview(value)
    if size >= 11 and view[0] == _ARRAY2 and view[1] == _BIN32:
        end = 6 + _LENGTH.unpack_from(value, 2)[0]
        if end + 5 > size or _BINARY.unpack_from(value, end) != (_BIN32, size - end - 5):
            raise CodecError("record is truncated: its head and tail lengths do not match its size")
        head, tail = unpack(view[6:end]), view[end + 5 :]
    else:
        head, tail = unpack(view), view[:0]
    if not isinstance(head, dict):
        raise CodecError(f"record must hold a map, not {type(head).__name__}")
    return head, tail


def _tensor_heads(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "datatype": t.datatype, "shape": t.shape, "size": len(t.data)}
        for t in tensors
    ]  # fmt: skip


def _tensors(heads: object, tail: memoryview, where: str) -> tuple[Tensor, ...]:
    if not isinstance(heads, list) or len(heads) > v2.MAX_TENSORS:
        raise CodecError(f"'{where}' must be a list of at most {v2.MAX_TENSORS} tensors")
    tensors, position = [], 0
    for head in heads:
        tensor = _plain_tensor(head, tail, position)
        if tensor is not None:
            position += len(tensor.data)
        else:
            tensor, used = _tensor(head, tail[position:], where)
            position += used
        tensors.append(tensor)
    if position != len(tail):
        raise CodecError(f"record has {len(tail) - position} bytes that belong to no tensor of '{where}'")
    return tuple(tensors)


def _plain_tensor(head: Any, tail: memoryview, position: int) -> Tensor | None:
    """The tensor of a head as `_tensor_heads` writes it, where it fits the tail; `_tensor` says what is wrong with any other."""
    try:
        name, datatype, shape, size = head["name"], head["datatype"], head["shape"], head["size"]
        count = ITEM_SIZE[datatype]
    except (KeyError, TypeError):
        return None
    if count == 0 or type(name) is not str or type(shape) is not list or len(shape) > MAX_RANK or "data" in head:
        return None
    for length in shape:
        if type(length) is not int or length < 0:
            return None
        count *= length
    if count != size or type(size) is not int or position + size > len(tail):
        return None
    return Tensor(name, datatype, tuple(shape), tail[position : position + size])


def _tensor(head: object, tail: memoryview, where: str) -> tuple[Tensor, int]:
    """One tensor and how many bytes of the tail it took."""
    if not isinstance(head, dict):
        raise CodecError(f"each of '{where}' must be a map")
    name, datatype, shape = head.get("name"), head.get("datatype"), head.get("shape")
    if type(name) is not str or type(datatype) is not str or type(shape) is not list or datatype not in ITEM_SIZE:
        raise CodecError(f"a tensor of '{where}' lacks a name, a known datatype or a shape: {name!r}, {datatype!r}")
    data = head.get("data")
    if data is None:
        size = head.get("size")
        if type(size) is not int or not 0 <= size <= len(tail):
            raise CodecError(f"tensor '{name}' claims {size!r} bytes of {len(tail)} that are there")
        tensor, used = Tensor(name, datatype, check_shape(shape, f"tensor '{name}'"), tail[:size]), size
    elif type(data) is bytes:
        tensor, used = Tensor(name, datatype, check_shape(shape, f"tensor '{name}'"), data), 0
    else:
        raise CodecError(f"tensor '{name}': data must be binary, not {type(data).__name__}")
    check_size(tensor)
    return tensor, used


def micros(seconds: float) -> int:
    """Seconds as whole microseconds, the wire's unit."""
    return round(seconds * 1e6)


def encode_request(request: InferRequest) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The record's value and headers; see protocol/README.md for every header."""
    head: dict[str, Any] = {"inputs": _tensor_heads(request.inputs)}
    if request.label:
        head["id"] = request.label
    if request.outputs:
        head["outputs"] = request.outputs
    if request.parameters:
        head["parameters"] = request.parameters
    return _join(head, request.inputs), _headers(request)


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
    return headers


def decode_request(
    value: Buffer, headers: Headers, *, model: str, version: str, default_id: str, timestamp: float
) -> InferRequest:
    """The request of one record.

    Args:
        value: msgpack or, with the header `content-type: application/json`, a V2 JSON body.
        headers: the record's; unknown ones are ignored, of repeated ones the last counts.
        model, version: from the topic's name.
        default_id: the fleet id where no header names one (topic-partition-offset-timestamp).
        timestamp: the record's, in seconds: stands for the stamps that a foreign producer does not send.

    Raises:
        CodecError: naming what is wrong.
    """
    fields = dict(headers)
    schema = fields.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise CodecError(f"schema {schema!r} is not known; this reader speaks {SCHEMA.decode()}")
    if fields.get("content-type", MSGPACK) == JSON:
        body = v2.parse_json(value)
        inputs, outputs, parameters, label = body.inputs, body.output_names, body.parameters, body.id
    else:
        head, tail = split(value)
        inputs = _tensors(head.get("inputs"), tail, "inputs")
        outputs = _names(head.get("outputs", ()))
        parameters = v2.check_parameters(head.get("parameters", {}), "the request")
        label = head.get("id", "")
        if type(label) is not str:
            raise CodecError("'id' must be a string")
    request = InferRequest(fields_text(fields, "id") or default_id, model, version, inputs, outputs, parameters, label)
    _read_headers(request, fields, timestamp)
    return request


def _read_headers(request: InferRequest, fields: Mapping[str, bytes], timestamp: float) -> None:
    stamps = fields.get("stamps")
    if stamps is not None and len(stamps) == _STAMPS.size:
        accepted, published = _STAMPS.unpack(stamps)
        request.accepted, request.published = accepted / 1e6, published / 1e6
    else:
        request.accepted = request.published = timestamp
    request.reply_to = fields_text(fields, "reply-to")
    if "principal" in fields:
        request.principal = fields_text(fields, "principal") or ANONYMOUS
    if "deadline" in fields:
        request.deadline = _number(fields["deadline"], "deadline") / 1e6
    if "priority" in fields:
        request.priority = _number(fields["priority"], "priority")
    if "timeout" in fields:
        request.timeout = _number(fields["timeout"], "timeout") / 1e6
    if "traceparent" in fields:
        request.traceparent = fields_text(fields, "traceparent")
    request.claimed = "claimed" in fields


def fields_text(fields: Mapping[str, bytes], name: str) -> str:
    """A header's text, "" where absent.

    Raises:
        CodecError: it is not UTF-8 or longer than 1,024 bytes.
    """
    raw = fields.get(name, b"")
    try:
        if len(raw) > 1024:
            raise CodecError(f"header '{name}' has {len(raw)} bytes; at most 1024 are allowed")
        return raw.decode()
    except UnicodeDecodeError:
        raise CodecError(f"header '{name}' is not UTF-8") from None


def _number(raw: bytes, name: str) -> int:
    if not raw.isdigit() or len(raw) > 18:
        raise CodecError(f"header '{name}' must be a decimal number, not {raw[:32]!r}")
    return int(raw)


def _names(value: object) -> tuple[str, ...]:
    if (
        not isinstance(value, list | tuple)
        or not all(type(name) is str for name in value)
        or len(value) > v2.MAX_TENSORS
    ):
        raise CodecError(f"'outputs' must be a list of at most {v2.MAX_TENSORS} names")
    return tuple(value)


def encode_reply(reply: InferReply) -> bytes:
    """The payload of a terminal entry: the same array of head and tail."""
    timing = reply.timing
    head: dict[str, Any] = {
        "v": WIRE_VERSION,
        "model_name": reply.model,
        "model_version": reply.version,
        "stamps": [
            micros(timing.accepted), micros(timing.published), micros(timing.fetched), micros(timing.enqueued),
            micros(timing.released), micros(timing.compute_start), micros(timing.compute_end), micros(timing.emitted),
        ],
        "release": timing.reason,
        "batch": [timing.batch_rows, timing.batch_requests],
        "attempt": timing.attempt,
        "worker": timing.worker,
    }  # fmt: skip
    if reply.label:
        head["id"] = reply.label
    if reply.failure is not None:
        head["error"] = [reply.failure.code.value, reply.failure.message]
    else:
        head["outputs"] = _tensor_heads(reply.outputs)
    if reply.parameters:
        head["parameters"] = reply.parameters
    return _join(head, reply.outputs)


def decode_reply(data: Buffer) -> InferReply:
    """The inverse of `encode_reply`; unknown fields are ignored.

    Raises:
        CodecError: the bytes are not a reply of a version this reader speaks.
    """
    head, tail = split(data)
    if head.get("v") != WIRE_VERSION:
        raise CodecError(f"reply has wire version {head.get('v')!r}; this reader speaks {WIRE_VERSION}")
    error = head.get("error")
    outputs = () if error is not None else _tensors(head.get("outputs"), tail, "outputs")
    parameters = v2.check_parameters(head["parameters"], "the reply") if "parameters" in head else {}
    try:
        failure = Failure(Code(error[0]), str(error[1])) if error is not None else None
        return InferReply(
            head["model_name"], head["model_version"], head.get("id", ""), outputs, parameters, failure, _timing(head)
        )
    except (KeyError, TypeError, ValueError, IndexError) as exc:
        raise CodecError(f"reply lacks or mistypes a field: {exc!r}") from None


def _timing(head: dict[str, Any]) -> Timing:
    a, p, f, e, r, cs, ce, em = head["stamps"]
    rows, requests = head["batch"]
    return Timing(
        a / 1e6, p / 1e6, f / 1e6, e / 1e6, r / 1e6, cs / 1e6, ce / 1e6, em / 1e6, 0.0,
        head["release"], rows, requests, head["attempt"], head["worker"],
    )  # fmt: skip
