"""The bodies of Triton's generate routes: a flat JSON object to an infer body, and an answer to one. Pure.

A key that names an input is its data, the rest are parameters; `parameters` is flattened by the same rules. Of a key that stands
twice, an input is refused and a parameter's last value counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from protocol.errors import CodecError, SizeError, of_request, quoted
from protocol.json_data import pack_data
from protocol.messages import InferReply, Parameters
from protocol.tensors import MAX_ELEMENTS, Buffer, Tensor, check_shape, element_count, spend
from protocol.v2 import MAX_TENSORS, InferBody, check_parameters, check_sequence, refuse_infinity, tensor_json

GenerateInput = tuple[str, str, tuple[int, ...]]
"""Name, datatype and shape of a model's input, -1 for a variable dimension; the first is -1 if the model batches."""

_NESTED: Final = "parameters"


def parse_generate(
    text: Buffer | bytearray, inputs: Iterable[GenerateInput], most: int = MAX_ELEMENTS, model: str = ""
) -> InferBody:
    """The body of a generate call.

    Args:
        inputs: of the model.
        most: as in `v2.parse_body`.
        model: the model that errors name; "" for none.

    Raises:
        CodecError: naming the key that is wrong.
        ManyElements: it has more than `most` BYTES elements.
    """
    raw = bytes(text)
    try:
        root = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise CodecError(f"failed to parse the request JSON buffer: {error}") from None
    if type(root) is not dict:
        raise CodecError("the body of a generate call must be a JSON object")
    known = {name: (datatype, shape) for name, datatype, shape in inputs}
    label = "" if "id" in known else root.pop("id", "")
    if type(label) is not str:
        raise CodecError(f"'id' must be a string, not {quoted(label)}")
    data, parameters = _sorted(root, known, label)
    _refuse_twice(raw, known, label)
    tensors: list[Tensor] = []
    try:
        for name, value in data.items():
            datatype, dims = known[name]
            shape = _shape(name, dims, value)
            most = spend(most, datatype, shape)
            tensors.append(Tensor(name, datatype, shape, pack_data(name, datatype, shape, value)))
    except SizeError as error:
        raise CodecError(error.full_text(model, label)) from None
    return InferBody(label, tuple(tensors), (), parameters, held=sum([len(tensor.data) for tensor in tensors]))


def _sorted(
    root: dict[str, Any], known: dict[str, tuple[str, tuple[int, ...]]], label: str
) -> tuple[dict[str, list[Any]], Parameters]:
    """The data of the inputs, and the parameters."""
    nested = root.pop(_NESTED, None) if _NESTED in root else {}
    if _NESTED in known:
        raise CodecError(f"Keyword '{_NESTED}' for nested schema also given as input tensor name")
    if type(nested) is not dict:
        raise CodecError(f"Expected JSON object for keyword: '{_NESTED}', not {quoted(nested)}")
    data: dict[str, list[Any]] = {}
    parameters: dict[str, Any] = {}
    for where, part in (("", root), (f"Converting keyword: '{_NESTED}': ", nested)):
        for name, value in part.items():
            if name not in known:
                parameters[name] = value
            elif name in data:
                raise CodecError(where + of_request(label, f"input '{name}' already exists in request"))
            else:
                data[name] = value if type(value) is list else [value]
    if len(data) > MAX_TENSORS:
        raise CodecError(f"the request has {len(data)} inputs; at most {MAX_TENSORS} are allowed")
    checked = check_parameters(parameters, "the request")
    check_sequence(checked)
    return data, checked


def _refuse_twice(raw: bytes, known: Iterable[str], label: str) -> None:
    """Refuse an input that stands twice in an object, which the parser does not tell."""
    suspects = [name for name in known if raw.count(orjson.dumps(name)) > 1]
    if not suspects:
        return

    def check(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        twice = next((name for name in suspects if names.count(name) > 1), None)
        if twice is not None:
            raise CodecError(of_request(label, f"input '{twice}' already exists in request"))

    try:
        json.loads(raw, object_pairs_hook=check, parse_int=str, parse_float=str)
    except RecursionError:
        raise CodecError("the request's JSON is nested too deeply") from None


def _shape(name: str, dims: Sequence[int], value: list[Any]) -> tuple[int, ...]:
    """The shape of so many elements: fixed sizes divide their number, the innermost variable one gets what is left."""
    left, fixed = len(value), element_count([size for size in dims if size != -1])
    shape = [1 if size == -1 else size for size in dims]
    fits = left == 0 or (fixed > 0 and left % fixed == 0)
    if fits and -1 in dims:
        innermost = len(dims) - 1 - list(reversed(dims)).index(-1)
        shape[innermost] = left // fixed if fixed else 0
    if not fits or element_count(shape) != left:
        raise CodecError(f"The schema can not convert input '{name}' to tensor with proper shape")
    return check_shape(shape, f"input '{name}'")


def write_generated(reply: InferReply) -> bytes:
    """The JSON of an answer: each output by its name, a scalar if it has one element, else a flat list.

    Raises:
        CodecError: JSON cannot express an output (FP16, BF16, BYTES that are not UTF-8, an infinity).
    """
    document: dict[str, Any] = {**reply.parameters}
    for tensor in reply.outputs:
        elements = tensor_json(tensor)
        document[tensor.name] = elements[0] if len(elements) == 1 else elements
    document |= {"model_name": reply.model, "model_version": reply.version}
    if reply.label:
        document["id"] = reply.label
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS)
    if b"null" in text:
        refuse_infinity(reply.outputs, frozenset())
    return text
