"""The infer route's bodies: from bytes and headers to tensors and back. Pure."""

from __future__ import annotations

import struct
from typing import Final

from protocol import v2
from protocol.errors import CodecError, InvalidArgument, SizeError, of_request, quoted
from protocol.messages import InferReply, Timing
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import ITEM_SIZE, MANY, Buffer, Tensor, check_size, element_count
from protocol.v2 import InferBody, ResponseBody

Binary = frozenset[str] | bool
"""Which outputs a caller wants as raw bytes behind the JSON: by name, all, or none."""

_LENGTH: Final = struct.Struct("<I")
_STRING: Final = 64
"""Bytes of numbers that take as long to be written as one string."""


def header_length(raw: bytes | None) -> int | None:
    """The number in `Inference-Header-Content-Length`.

    Raises:
        InvalidArgument: it is not one.
    """
    if raw is None:
        return None
    digits = raw.strip(b" \t")
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 12:
        raise InvalidArgument(f"Inference-Header-Content-Length must be a number of bytes, not {quoted(raw)}")
    return int(digits)


def parse(body: Buffer | bytearray, length: int | None, config: ModelConfig) -> InferBody:
    """The infer body, in whichever of the three forms its header length says.

    Raises:
        ManyElements: the JSON process is to parse it.
        CodecError, InvalidArgument, Unsupported: naming what is wrong.
    """
    if length == 0:
        return raw_binary(memoryview(body), config)
    return v2.parse_body(memoryview(body), length, MANY, config.name)


def raw_binary(body: memoryview, config: ModelConfig) -> InferBody:
    """A body that is nothing but the single input's bytes.

    Raises:
        InvalidArgument: the model has several inputs, or its shape cannot be told from the number of bytes.
    """
    if len(config.inputs) != 1:
        raise InvalidArgument(
            of_request(
                "",
                f"Raw request must only have 1 input (found 1) to be deduced but got {len(config.inputs)} inputs in "
                f"'{config.name}' model configuration",
            )
        )
    spec = config.inputs[0]
    dims = list(spec.dims)
    if dims.count(-1) > 1:
        raise InvalidArgument(
            f"the shape of a raw binary request for '{config.name}' is not known: {dims} has several sizes open"
        )
    data: Buffer = body
    if spec.datatype == "BYTES":
        if any(size not in (-1, 1) for size in dims):
            raise InvalidArgument(
                f"a raw binary request for '{config.name}' can hold one BYTES element, its shape is {dims}"
            )
        data, dims = _LENGTH.pack(len(body)) + bytes(body), [1] * len(dims)
    elif -1 in dims:
        dims[dims.index(-1)] = _open_size(len(body), [size for size in dims if size != -1], spec, config.name)
    shape = (1, *dims) if config.batching else tuple(dims)
    tensor = Tensor(spec.name, spec.datatype, shape, data)
    try:
        check_size(tensor)
    except SizeError as error:
        raise CodecError(error.full_text(config.name, "")) from None
    return InferBody("", (tensor,), (), {}, binary_default=True)


def _open_size(size: int, others: list[int], spec: TensorSpec, model: str) -> int:
    step = element_count(others) * ITEM_SIZE[spec.datatype]
    if size % step:
        text = f"input byte size mismatch for input '{spec.name}' for model '{model}'. Expected a multiple of {step}, got {size}"
        raise InvalidArgument(of_request("", text))
    return size // step


def wanted(body: InferBody) -> Binary:
    """Which outputs the caller wants as raw bytes: a listed one says so itself, the default is for those not listed."""
    if body.outputs:
        return frozenset([output.name for output in body.outputs if output.binary]) or False
    return body.binary_default


def render(reply: InferReply, binary: Binary) -> ResponseBody:
    """The V2 response of an answer with outputs.

    Raises:
        CodecError: an output has no JSON form and was not asked for as raw bytes.
    """
    names = frozenset([tensor.name for tensor in reply.outputs]) if binary is True else binary or _NONE
    return v2.encode_response(reply.model, reply.version, reply.label, reply.parameters, reply.outputs, names)


def json_bytes(reply: InferReply, binary: Binary) -> int:
    """Bytes of the tensors that `render` would write as JSON; each element of BYTES counts for `_STRING` more."""
    if binary is True:
        return 0
    names = binary or _NONE
    return sum([_cost(tensor) for tensor in reply.outputs if tensor.name not in names])


def _cost(tensor: Tensor) -> int:
    size = len(tensor.data)
    return size if tensor.datatype != "BYTES" else size + _STRING * element_count(tensor.shape)


_NONE: Final[frozenset[str]] = frozenset()
_STAGES: Final = ("published", "fetched", "enqueued", "released", "compute_start", "compute_end", "emitted", "woken")
_NAMES: Final = ("publish", "fetch", "enqueue", "release", "compute_start", "compute_end", "emit", "wake")
_ALL: Final = (
    b"publish=%d, fetch=%d, enqueue=%d, release=%d, compute_start=%d, compute_end=%d, emit=%d, wake=%d, rows=%d, requests=%d, "
    b"attempt=%d, reason=%s%s"
)


def timing(stamps: Timing) -> bytes:
    """The value of `Penstock-Timing`: a structured dictionary (RFC 8941) of microseconds since the gateway had read the request,
    the batch's rows and requests, the attempt, why the batch was released, and which files ran. What did not happen is left out,
    and what another host's clock says was before the request."""
    t0 = stamps.accepted - 5e-7  # so that cutting off rounds
    if stamps.accepted and stamps.released and stamps.emitted:
        text = _ALL % (
            (stamps.published - t0) * 1e6, (stamps.fetched - t0) * 1e6, (stamps.enqueued - t0) * 1e6,
            (stamps.released - t0) * 1e6, (stamps.compute_start - t0) * 1e6, (stamps.compute_end - t0) * 1e6,
            (stamps.emitted - t0) * 1e6, (stamps.woken - t0) * 1e6, stamps.batch_rows, stamps.batch_requests, stamps.attempt,
            _token(stamps.reason), _digest(stamps.digest),
        )  # fmt: skip
        if b"=-" not in text:
            return text
    parts = [
        b"%s=%d" % (name.encode(), (getattr(stamps, stage) - t0) * 1e6)
        for name, stage in zip(_NAMES, _STAGES, strict=True)
        if getattr(stamps, stage) >= stamps.accepted > 0
    ]
    if stamps.released and stamps.emitted:
        counts = (stamps.batch_rows, stamps.batch_requests, stamps.attempt, _token(stamps.reason))
        parts.append(b"rows=%d, requests=%d, attempt=%d, reason=%s" % counts)
    return b", ".join(parts)


def _digest(text: str) -> bytes:
    """The beginning of the digest of the model's files, as a string of a header."""
    return b', digest="%s"' % text.encode() if text.isalnum() and text.isascii() else b""


def _token(text: str) -> bytes:
    """The text as a token that can stand in a header; it comes from a worker."""
    return text.encode() if text.isidentifier() and text.isascii() else b"other"
