"""A V2 infer response, written and read. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson

from protocol.errors import CodecError
from protocol.messages import Parameters
from protocol.tensors import MAX_ELEMENTS, NUMPY_DTYPE, Buffer, Tensor, bytes_elements
from protocol.v2.body import SharedInput
from protocol.v2.inputs import MAX_TENSORS, NOTHING, parse_inputs

_NO_NAMES: Final[frozenset[str]] = frozenset()


@dataclasses.dataclass(slots=True)
class ResponseBody:
    """An encoded V2 infer response.

    Attributes:
        parts: the body, in order.
        header_length: bytes of JSON in front of binary tensors; None for a body that is all JSON.
    """

    parts: list[Buffer]
    header_length: int | None = None


def encode_response(  # noqa: PLR0913  # the parts of a response
    model: str,
    version: str,
    label: str,
    parameters: Parameters,
    outputs: Sequence[Tensor],
    binary: frozenset[str],
    elsewhere: frozenset[str] = _NO_NAMES,
) -> ResponseBody:
    """A V2 infer response; outputs named in `binary` become raw bytes after the JSON, those in `elsewhere` have no data in it.

    Raises:
        CodecError: JSON cannot express an output (FP16, BF16, BYTES that are not UTF-8, an infinity).
    """
    head: dict[str, Any] = {"model_name": model, "model_version": version}
    if label:
        head["id"] = label
    if parameters:
        head["parameters"] = parameters
    entries: list[dict[str, Any]] = []
    tail: list[Buffer] = []
    for tensor in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in binary:
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            tail.append(tensor.data)
        elif tensor.name not in elsewhere:
            entry["data"] = tensor_json(tensor)
        entries.append(entry)
    head["outputs"] = entries
    encoded = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in encoded:
        refuse_infinity(outputs, binary | elsewhere)
    return ResponseBody([encoded, *tail], len(encoded) if tail else None)


def parse_outputs(value: object) -> tuple[Tensor, ...]:
    """The outputs of a JSON response; null stands for NaN, as `encode_response` writes it.

    Raises:
        CodecError: names the fault.
    """
    if type(value) is not list or len(value) > MAX_TENSORS:
        raise CodecError(f"'outputs' must be a list of at most {MAX_TENSORS} tensors")
    for entry in value:
        if type(entry) is dict and entry.get("datatype") in ("FP32", "FP64") and type(entry.get("data")) is list:
            entry["data"] = [math.nan if number is None else number for number in entry["data"]]
    shared: list[SharedInput] = []
    tensors = parse_inputs(value, NOTHING, MAX_ELEMENTS, True, shared)
    if shared:
        raise CodecError(f"output '{tensors[shared[0].place].name}' has no data")
    return tensors


def refuse_infinity(outputs: Sequence[Tensor], binary: frozenset[str]) -> None:
    """Refuse an infinity: `orjson` writes null for it as for NaN, and clients read null back as NaN.

    Called only for a body that has a null.
    """
    for tensor in outputs:
        if tensor.name in binary or tensor.datatype not in ("FP32", "FP64"):
            continue
        if np.isinf(np.frombuffer(tensor.data, NUMPY_DTYPE[tensor.datatype])).any():
            raise CodecError(
                f"output '{tensor.name}' holds Infinity, which JSON cannot say; ask for it with the parameter 'binary_data'"
            )


def tensor_json(tensor: Tensor) -> Any:
    """The tensor's elements, flat, in a form that `orjson` writes (with OPT_SERIALIZE_NUMPY).

    Raises:
        CodecError: the datatype has no JSON form.
    """
    if tensor.datatype == "BYTES":
        try:
            return [element.decode() for element in bytes_elements(tensor)]
        except UnicodeDecodeError:
            raise CodecError(f"output '{tensor.name}' is not UTF-8; ask for it with 'binary_data'") from None
    if tensor.datatype in ("FP16", "BF16"):
        raise CodecError(
            f"sending {tensor.datatype} data via JSON is not supported. Please use the binary data format for output "
            f"'{tensor.name}'"
        )
    return np.frombuffer(tensor.data, NUMPY_DTYPE[tensor.datatype])
