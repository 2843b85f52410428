"""From an answer to the bytes of a ModelInferResponse. Pure.

The descriptions of outputs repeat from answer to answer, so their bytes are remembered; the tensors' bytes are joined behind them
without passing through protobuf. Fields of a message may come in any order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

from protocol.messages import InferReply, Parameters
from protocol.proto import message_class
from protocol.tensors import Buffer, Tensor

_HEADS: Final = 1024
_MODEL: Final = bytes([1 << 3 | 2])
_ID: Final = bytes([3 << 3 | 2])
_RAW: Final = bytes([6 << 3 | 2])
_STREAM_ERROR: Final = bytes([1 << 3 | 2])
_STREAM_RESPONSE: Final = bytes([2 << 3 | 2])
_FINAL: Final = "triton_final_response"

Outputs = tuple[tuple[str, str, tuple[int, ...]], ...]


def encode(reply: InferReply, outputs: Sequence[Tensor], *, final: bool | None = None) -> list[Buffer]:
    """The message of an answer, in pieces that follow each other.

    Args:
        outputs: the tensors to send; one in shared memory has no data.
        final: whether it is the last answer to its request, for a stream; None for a unary call.
    """
    described = tuple([(tensor.name, tensor.datatype, tensor.shape) for tensor in outputs])
    pieces: list[Buffer] = [_head(reply.model, reply.version, described)]
    if reply.label:
        pieces.append(_text(_ID, reply.label))
    if reply.parameters or final is not None:
        pieces.append(_parameters(reply.parameters, final=final))
    for tensor in outputs:
        data = tensor.data
        pieces += (_prefix(len(data)), data)
    return pieces


def stream_response(message: list[Buffer]) -> bytes:
    """A ModelStreamInferResponse with an answer."""
    return b"".join([_STREAM_RESPONSE, varint(sum(map(len, message))), *message])


def stream_error(text: str, label: str, model: str = "") -> bytes:
    """A ModelStreamInferResponse with an error, and the id of its request.

    Args:
        model: that failed; "" if the request did not reach one.
    """
    response = _text(_ID, label) if label else b""
    if model:
        response = b"".join([_text(_MODEL, model), response, _parameters({}, final=True)])
    return b"".join([_text(_STREAM_ERROR, text), _STREAM_RESPONSE, varint(len(response)), response])


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    if number < 128:
        return bytes((number,))
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


@functools.lru_cache(_HEADS)
def _prefix(size: int) -> bytes:
    """What stands in front of an output's bytes."""
    return _RAW + varint(size)


def _text(tag: bytes, text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    return b"%b%b%b" % (tag, varint(len(raw)), raw)


@functools.lru_cache(_HEADS)
def _head(model: str, version: str, outputs: Outputs) -> bytes:
    message: Any = message_class("inference.ModelInferResponse")(model_name=model, model_version=version)
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
    head: bytes = message.SerializeToString()
    return head


def _parameters(parameters: Parameters, *, final: bool | None) -> bytes:
    message: Any = message_class("inference.ModelInferResponse")()
    for name, value in parameters.items():
        set_parameter(message.parameters[name], value)
    if final is not None:
        message.parameters[_FINAL].bool_param = final
    fields: bytes = message.SerializeToString()
    return fields


def set_parameter(parameter: Any, value: object) -> None:
    """Fill an InferParameter; an integer that no field can hold is written as text."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        if -(2**63) <= value < 2**63:
            parameter.int64_param = value
        elif 0 <= value < 2**64:
            parameter.uint64_param = value
        else:
            parameter.string_param = str(value)
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = str(value)
