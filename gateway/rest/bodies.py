"""The infer route's bodies: from bytes and headers to tensors and back. Pure."""

from __future__ import annotations

import struct
from typing import Final

from gateway.rest import generating
from gateway.rest.generating import GenerateInput
from protocol import v2
from protocol.errors import CodecError, InvalidArgument, SizeError, of_request, quoted
from protocol.messages import InferReply
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import ITEM_SIZE, MANY, Buffer, Tensor, check_size, element_count
from protocol.v2 import InferBody, ResponseBody

Binary = frozenset[str] | bool
"""The outputs that a caller wants as raw bytes after the JSON: by name, all (True) or none (False)."""

_LENGTH: Final = struct.Struct("<I")
_STRING: Final = 64
"""One string takes as long to write as this many bytes of numbers."""


def header_length(raw: bytes | None) -> int | None:
    """The number in `Inference-Header-Content-Length`.

    Raises:
        InvalidArgument: it is not a number.
    """
    if raw is None:
        return None
    digits = raw.strip(b" \t")
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 12:
        raise InvalidArgument(f"Inference-Header-Content-Length must be a number of bytes, not {quoted(raw)}")
    return int(digits)


def parse_body(body: Buffer | bytearray, length: int | None, config: ModelConfig) -> InferBody:
    """Parse an infer body: JSON, JSON and raw bytes, or raw bytes alone (`length` 0).

    Raises:
        ManyElements: it has too many strings for the event loop; a JSON process parses it.
        CodecError, InvalidArgument, Unsupported: naming the fault.
    """
    if length == 0:
        return raw_binary(memoryview(body).toreadonly(), config)
    return v2.parse_body(body, length, MANY, config.name)


def parse_generate(body: Buffer | bytearray, config: ModelConfig) -> InferBody:
    """Parse the body of a generate call.

    Raises:
        ManyElements: as `parse_body`.
        CodecError: naming the key that is wrong.
    """
    return generating.parse_generate(body, generate_inputs(config), MANY, config.name)


def generate_inputs(config: ModelConfig) -> list[GenerateInput]:
    """The inputs that the keys of a generate call may name."""
    return [(spec.name, spec.datatype, tuple(config.shape_of(spec))) for spec in config.inputs]


def raw_binary(body: memoryview, config: ModelConfig) -> InferBody:
    """Parse a body that consists of the bytes of the model's only input.

    Raises:
        InvalidArgument: the model has several inputs, or the number of bytes does not determine the shape.
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
            f"the shape of a raw binary request for '{config.name}' is not known: {dims} has several variable dimensions"
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
    return InferBody("", (tensor,), (), {}, binary_default=True, held=len(data))


def _open_size(size: int, others: list[int], spec: TensorSpec, model: str) -> int:
    step = element_count(others) * ITEM_SIZE[spec.datatype]
    if size % step:
        text = f"input byte size mismatch for input '{spec.name}' for model '{model}'. Expected a multiple of {step}, got {size}"
        raise InvalidArgument(of_request("", text))
    return size // step


def wanted(body: InferBody) -> Binary:
    """The outputs that the caller wants as raw bytes: listed ones by their own flag, all others by the default."""
    if body.outputs:
        return frozenset([output.name for output in body.outputs if output.binary]) or False
    return body.binary_default


def render(reply: InferReply, binary: Binary, elsewhere: frozenset[str] = frozenset()) -> ResponseBody:
    """The V2 response of an answer with outputs; those in `elsewhere` have no data in it.

    Raises:
        CodecError: an output has no JSON form and was not requested as raw bytes.
    """
    names = frozenset([tensor.name for tensor in reply.outputs]) if binary is True else binary or _NONE
    return v2.encode_response(
        reply.model, reply.version, reply.label, reply.parameters, reply.outputs, names, elsewhere
    )


def json_bytes(reply: InferReply, binary: Binary) -> int:
    """Bytes of the tensors that `render` would write as JSON; each element of BYTES adds `_STRING`."""
    if binary is True:
        return 0
    names = binary or _NONE
    return sum([_cost(tensor) for tensor in reply.outputs if tensor.name not in names])


def _cost(tensor: Tensor) -> int:
    size = len(tensor.data)
    return size if tensor.datatype != "BYTES" else size + _STRING * element_count(tensor.shape)


_NONE: Final[frozenset[str]] = frozenset()
