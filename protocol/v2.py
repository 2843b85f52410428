"""The Open Inference Protocol's V2 bodies: JSON, and Triton's binary tensor extension. Pure; used for HTTP and for V2
JSON bodies on Kafka.

Triton answers some malformed bodies with 500 and silently truncates integers; this raises `CodecError`. Triton writes the literal
NaN, which is not JSON; this writes null, and refuses an infinity, which a caller must request as raw bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast

import numpy as np
import orjson

from protocol.errors import CodecError, SizeError, Unsupported, quoted
from protocol.json_data import pack_data, packer
from protocol.messages import Parameters
from protocol.tensors import (
    ITEM_SIZE,
    MAX_ELEMENTS,
    MAX_RANK,
    NUMPY_DTYPE,
    Buffer,
    Tensor,
    bytes_elements,
    check_shape,
    check_size,
    element_count,
    spend,
)

MAX_TENSORS: Final = 256
MAX_PARAMETERS: Final = 256
_FORMS: Final = 1024
_FORM_NAME: Final = 128
"""At most `_FORMS` forms of inputs are remembered, with names of at most this many characters."""
_RESERVED: Final = "triton_"
_SEQUENCE: Final = frozenset({"sequence_id", "sequence_start", "sequence_end"})
_TENSOR_RESERVED: Final = ("binary_data_size", "shared_memory_region")
_ONE_SOURCE: Final = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', 'shared_memory_region' in "
    "'parameters'."
)


@dataclasses.dataclass(slots=True)
class RequestedOutput:
    """One entry of `outputs`.

    Attributes:
        binary: the parameter `binary_data`; False by default, because a listed output is JSON.
        classes: the parameter `classification`: how many of the highest elements the caller wants; 0 for the tensor itself.
        region: shared memory that the output is written to, as registered at the gateway; "" for the response.
        offset, byte_size: the part of the region.
    """

    name: str
    binary: bool = False
    classes: int = 0
    region: str = ""
    offset: int = 0
    byte_size: int = 0


class SharedMemory(Protocol):
    """Regions of memory that clients share with a gateway on the same machine."""

    def read(self, region: str, offset: int, byte_size: int) -> bytes:
        """A copy of a part of a region. Raises `NotFound` or `InvalidArgument` naming the region: it is unknown or too small."""

    def write(self, region: str, offset: int, byte_size: int, data: Sequence[Buffer]) -> None:
        """Write pieces, one after the other. Raises as `read`."""


class SharedInput(NamedTuple):
    """The part of a region that an input's data lies in.

    Attributes:
        place: the input's among the inputs.
        region: as registered at the gateway.
        offset, byte_size: the part.
    """

    place: int
    region: str
    offset: int
    byte_size: int


@dataclasses.dataclass(slots=True)
class InferBody:
    """A parsed V2 infer body: typed, with checked sizes, not yet compared with a model.

    Attributes:
        held: bytes that the tensors keep in memory: their own, and the whole body if any is a view of it.
        shared: the inputs whose data lies in shared memory; theirs is empty until `read_shared`.
    """

    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...]
    parameters: Parameters
    binary_default: bool = False
    held: int = 0
    shared: tuple[SharedInput, ...] = ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the wanted outputs; empty for all."""
        return tuple([output.name for output in self.outputs])


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
    text, tail = (bytes(body), _NOTHING) if header_length is None else _split(body, header_length)
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
        inputs = _inputs(root.get("inputs"), tail, most, b"true" in text or b"false" in text, shared)
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


def check_parameters(value: object, where: str) -> Parameters:
    """Parameters: an object of strings, integers, booleans and floats under names that are not reserved.

    Raises:
        CodecError: naming the parameter.
    """
    if type(value) is not dict or len(value) > MAX_PARAMETERS:
        raise CodecError(f"'parameters' of {where} must be an object of at most {MAX_PARAMETERS} entries")
    for key, item in value.items():
        if type(key) is not str:
            raise CodecError(f"parameter names of {where} must be strings")
        if key.startswith(_RESERVED):
            raise CodecError(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
            )
        if type(item) not in (str, int, bool, float):
            raise CodecError(
                f"parameter '{key}' has invalid type. It should be either 'int', 'bool', 'float' or 'string'."
            )
    return cast("Parameters", value)


def check_sequence(parameters: Parameters) -> None:
    """Check the types of sequence parameters, even for models without sequences, which ignore them.

    Raises:
        CodecError: naming the parameter.
    """
    for name in ("sequence_start", "sequence_end"):
        value = parameters.get(name, False)
        if type(value) is not bool:
            raise CodecError(f"parameter '{name}' must be a boolean, not {quoted(value)}")
    value = parameters.get("sequence_id", 0)
    if not (type(value) is str or (type(value) is int and value >= 0)):
        raise CodecError(f"parameter 'sequence_id' must be an unsigned integer or a string, not {quoted(value)}")


_NOTHING: Final = memoryview(b"")


def _inputs(
    value: object, tail: memoryview, most: int, booleans: bool, shared: list[SharedInput]
) -> tuple[Tensor, ...]:
    """The inputs of a body; those in shared memory are added to `shared`.

    Args:
        booleans: whether the JSON text has the letters of one, which are far cheaper to search than each value's type is to ask.
    """
    if type(value) is not list:
        raise CodecError("'inputs' must be a list of tensors")
    if len(value) > MAX_TENSORS:
        raise CodecError(f"'inputs' has {len(value)} tensors; at most {MAX_TENSORS} are allowed")
    tensors: list[Tensor] = []
    position = 0
    for entry in value:
        tensor, used = _input(entry, tail[position:] if tail else tail, most, booleans)
        if used < 0:
            shared.append(_shared_input(len(tensors), tensor, entry["parameters"]))
            used = 0
        most = spend(most, tensor.datatype, tensor.shape)
        position += used
        tensors.append(tensor)
    if position != len(tail):
        raise SizeError(
            "unexpected additional input data",
            f": {len(tail) - position} bytes belong to no input",
            names_request=False,
        )
    return tuple(tensors)


def _input(entry: object, tail: memoryview, most: int, booleans: bool) -> tuple[Tensor, int]:
    """One input, and the number of bytes that it took from the tail; `_ELSEWHERE` if its data lies in shared memory."""
    if type(entry) is not dict:
        raise CodecError("each of 'inputs' must be an object")
    name, datatype, shape, size, pack = _form(entry.get("name"), entry.get("datatype"), entry.get("shape"))
    if size is None:
        spend(most, datatype, shape)
    parameters = entry.get("parameters")
    data = entry.get("data", _ABSENT)
    if data is not _ABSENT:
        if parameters is not None:
            _refuse_other_sources(name, parameters)
        if pack is not None and not booleans and type(data) is list:
            try:
                return Tensor(name, datatype, shape, pack(*data)), 0
            except (struct.error, OverflowError):
                pass  # `pack_data` takes the other ways to write it, or says what is wrong
        return Tensor(name, datatype, shape, pack_data(name, datatype, shape, data)), 0
    given = _binary_size(name, parameters)
    if given == _ELSEWHERE:
        return Tensor(name, datatype, shape, b""), given
    if given > len(tail):
        text = f"unexpected size for input '{name}', expecting {given - len(tail)} additional bytes"
        raise SizeError(text, "", names_request=False)
    tensor = Tensor(name, datatype, shape, tail[:given])
    if given != size:
        check_size(tensor)
    return tensor, given


class _Form(NamedTuple):
    """What inputs of one name, datatype and shape have in common.

    Attributes:
        size: bytes of the data; None for BYTES, whose elements vary.
        pack: makes the data of that many numbers; None for a datatype whose JSON is not numbers.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    pack: Callable[..., bytes] | None


def _form(name: object, datatype: object, shape: object) -> _Form:
    """The checked form of an input; those of the last requests are remembered."""
    if type(name) is not str or not name:
        raise CodecError("an input lacks its 'name'")
    if type(datatype) is not str or datatype not in ITEM_SIZE:
        raise CodecError(f"invalid datatype for input {name}: {quoted(datatype)}; known are {', '.join(ITEM_SIZE)}")
    if type(shape) is not list:
        raise CodecError(f"input '{name}' lacks its 'shape'")
    if len(name) > _FORM_NAME or len(shape) > MAX_RANK:
        return _new_form(name, datatype, *shape)
    try:
        return _known_form(name, datatype, *shape)
    except TypeError:  # a size that cannot be looked up, such as a list
        return _new_form(name, datatype, *shape)


def _new_form(name: str, datatype: str, *shape: object) -> _Form:
    sizes = check_shape(shape, f"input '{name}'")
    item, count = ITEM_SIZE[datatype], element_count(sizes)
    return _Form(name, datatype, sizes, count * item if item else None, packer(datatype, count))


_known_form: Final = functools.lru_cache(_FORMS, typed=True)(_new_form)  # typed: 1, 1.0 and True are equal
_ABSENT: Final = object()
_ELSEWHERE: Final = -1
"""Stands for the number of bytes of an input in shared memory."""


def _refuse_other_sources(name: str, parameters: object) -> None:
    if type(parameters) is dict and any(source in parameters for source in _TENSOR_RESERVED):
        given = " ".join([f"'{source}'" for source in _TENSOR_RESERVED if source in parameters])
        raise CodecError(f"{_ONE_SOURCE} But set 'data' {given}: input '{name}'")


def _binary_size(name: str, parameters: object) -> int:
    if type(parameters) is dict:
        if "shared_memory_region" in parameters:
            if "binary_data_size" in parameters:
                raise CodecError(f"{_ONE_SOURCE} But set 'binary_data_size' 'shared_memory_region': input '{name}'")
            return _ELSEWHERE
        size = parameters.get("binary_data_size")
        if type(size) is int and size >= 0:
            return size
        if "binary_data_size" in parameters:
            raise CodecError(f"input '{name}': 'binary_data_size' must be a non-negative integer, not {quoted(size)}")
    raise CodecError(f"{_ONE_SOURCE} But no field is set: input '{name}'")


def _shared_input(place: int, tensor: Tensor, parameters: dict[str, object]) -> SharedInput:
    """Where the data of an input in shared memory lies. Its size must be that of the shape, except for BYTES."""
    where = f"input '{tensor.name}'"
    region, offset, byte_size = _part(parameters, where)
    size = element_count(tensor.shape) * ITEM_SIZE[tensor.datatype]
    if size != byte_size and tensor.datatype != "BYTES":
        raise SizeError(f"input byte size mismatch for {where}", f". Expected {size}, got {byte_size}")
    return SharedInput(place, region, offset, byte_size)


def _part(parameters: dict[str, object], where: str) -> tuple[str, int, int]:
    """Region, offset and size of the parameters `shared_memory_…`."""
    region = parameters.get("shared_memory_region")
    if type(region) is not str:
        raise CodecError(f"parameter 'shared_memory_region' of {where} must be a string, not {quoted(region)}")
    numbers = []
    for name, default in (("shared_memory_offset", 0), ("shared_memory_byte_size", None)):
        number = parameters.get(name, default)
        if type(number) is not int or number < 0:
            raise CodecError(f"parameter '{name}' of {where} must be an unsigned integer, not {quoted(number)}")
        numbers.append(number)
    return region, numbers[0], numbers[1]


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
        output.region, output.offset, output.byte_size = _part(parameters, f"output '{name}'")
        for other, is_set in (("classification", output.classes), ("binary_data", binary)):
            if is_set:
                raise CodecError(f"Output can't set both 'shared_memory_region' and '{other}'")
    return output


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
    tensors = _inputs(value, _NOTHING, MAX_ELEMENTS, True, shared)
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
