"""A V2 infer body, parsed. Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson

from protocol.errors import CodecError, SizeError, Unsupported, quoted
from protocol.tensors import MAX_ELEMENTS, Buffer, Tensor, check_size
from protocol.v2.body import InferBody, RequestedOutput, SharedInput, SharedMemory
from protocol.v2.inputs import MAX_TENSORS, NOTHING, parse_inputs
from protocol.v2.parameters import check_parameters, check_sequence, region_part

_SEQUENCE: Final = frozenset({"sequence_id", "sequence_start", "sequence_end"})


def parse_json_body(body: Buffer, most: int = MAX_ELEMENTS) -> InferBody:
    """An infer body that is all JSON.

    Raises:
        CodecError: names the field that is wrong.
        ManyElements: it has more than `most` BYTES elements.
        Unsupported: it asks for shared memory or classification, which only gateways offer.
    """
    parsed = parse_body(body, None, most)
    if parsed.shared:
        name = parsed.inputs[parsed.shared[0].place].name
        raise Unsupported(
            f"input '{name}': shared memory is not offered here; only a gateway on the same machine has it"
        )
    for output in parsed.outputs:
        if output.classes or output.region:
            what = "the classification extension" if output.classes else "shared memory"
            raise Unsupported(f"output '{output.name}': {what} is not offered here; only gateways have it")
    return parsed


def parse_body(
    body: Buffer | bytearray, header_length: int | None, most: int = MAX_ELEMENTS, model: str = ""
) -> InferBody:
    """An infer body, with binary tensors after `header_length` bytes of JSON unless that is None.

    Binary tensors are read-only views of the body.

    Args:
        model: the model that errors name; "" for none.

    Raises:
        CodecError: names the field that is wrong.
        ManyElements: it has more than `most` BYTES elements.
    """
    text, tail = (bytes(body), NOTHING) if header_length is None else _split(body, header_length)
    root = _load(text)
    if type(root) is not dict:
        raise CodecError("the request body must be a JSON object")
    label = root.get("id")
    if label is None:
        label = ""
    elif type(label) is not str:
        raise CodecError(f"'id' must be a string, not {quoted(label)}")
    shared: list[SharedInput] = []
    try:
        inputs = parse_inputs(root.get("inputs"), tail, most, b"true" in text or b"false" in text, shared)
    except SizeError as error:
        raise CodecError(error.full_text(model, label)) from None
    raw = root.get("parameters")
    parameters = check_parameters(raw, "the request") if raw is not None else {}
    binary_default = parameters.pop("binary_data_output", False) if parameters else False
    if type(binary_default) is not bool:
        raise CodecError(f"parameter 'binary_data_output' must be a boolean, not {quoted(binary_default)}")
    if not _SEQUENCE.isdisjoint(parameters):
        check_sequence(parameters)
    held = sum([len(tensor.data) for tensor in inputs]) + (len(text) if tail else 0)
    return InferBody(label, inputs, _outputs(root.get("outputs")), parameters, binary_default, held, tuple(shared))


def read_shared(body: InferBody, memory: SharedMemory, model: str = "") -> None:
    """Copy the inputs that lie in shared memory into the body.

    Args:
        model: the model that errors name.

    Raises:
        FleetError: as `SharedMemory.read`; or the bytes do not match the input's datatype and shape.
    """
    inputs = list(body.inputs)
    for place, region, offset, byte_size in body.shared:
        given = inputs[place]
        inputs[place] = tensor = Tensor(given.name, given.datatype, given.shape, memory.read(region, offset, byte_size))
        try:
            check_size(tensor)
        except SizeError as error:
            raise CodecError(error.full_text(model, body.id)) from None
        body.held += byte_size
    body.inputs, body.shared = tuple(inputs), ()


def _split(body: Buffer | bytearray, header_length: int) -> tuple[bytes, memoryview]:
    """The JSON text in front, and a read-only view of the rest."""
    if not 0 < header_length <= len(body):
        raise CodecError(f"inference header size should be in range (0, {len(body)}), got: {header_length}")
    return bytes(body[:header_length]), memoryview(body).toreadonly()[header_length:]


def _load(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise CodecError(f"failed to parse the request JSON buffer: {exc}") from None


def _outputs(value: object) -> tuple[RequestedOutput, ...]:
    if value is None:
        return ()
    if type(value) is not list or len(value) > MAX_TENSORS:
        raise CodecError(f"'outputs' must be a list of at most {MAX_TENSORS} objects")
    outputs: dict[str, RequestedOutput] = {}
    for entry in value:
        name = entry.get("name") if type(entry) is dict else None
        if type(name) is not str or not name:
            raise CodecError("each of 'outputs' must be an object with a 'name'")
        outputs.setdefault(
            name, _output(name, entry.get("parameters"))
        )  # an output named twice counts once, as first named
    return tuple(outputs.values())


def _output(name: str, parameters: object) -> RequestedOutput:
    if parameters is None:
        return RequestedOutput(name)
    if type(parameters) is not dict:
        raise CodecError(f"'parameters' of output '{name}' must be an object")
    binary = parameters.get("binary_data", False)
    if type(binary) is not bool:
        raise CodecError(f"parameter 'binary_data' of output '{name}' must be a boolean, not {quoted(binary)}")
    output = RequestedOutput(name, binary)
    if "classification" in parameters:
        classes = parameters["classification"]
        if type(classes) is not int or classes < 0:
            raise CodecError(
                f"parameter 'classification' of output '{name}' must be an unsigned integer, not {quoted(classes)}"
            )
        output.classes = classes
    if "shared_memory_region" in parameters:
        output.region, output.offset, output.byte_size = region_part(parameters, f"output '{name}'")
        for other, is_set in (("classification", output.classes), ("binary_data", binary)):
            if is_set:
                raise CodecError(f"Output can't set both 'shared_memory_region' and '{other}'")
    return output
