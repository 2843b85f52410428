"""From a ModelInferRequest's bytes to tensors. Pure.

Two requests of a client mostly differ in their raw contents and their id alone. The rest is parsed and checked once, as a form, and
the forms of the last requests are remembered by their bytes.

Invariant: any bytes give a value or an error of ours.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from gateway.rpc import typed
from gateway.rpc.scanning import MALFORMED, entries, split
from protocol.errors import CodecError, InvalidArgument, SizeError, quoted
from protocol.messages import Parameters
from protocol.proto import message_class
from protocol.tensors import (
    ITEM_SIZE,
    MANY,
    MAX_ELEMENTS,
    Buffer,
    Tensor,
    check_bytes,
    check_shape,
    element_count,
    spend,
)
from protocol.v2 import MAX_PARAMETERS, MAX_TENSORS, InferBody, RequestedOutput, SharedInput

LARGE: Final = 64 * 1024
"""Bytes of a head that an event loop parses itself; more belong in a thread."""
EXPANSION: Final = 16
"""Bytes that protobuf and the parsed form need at most per byte of a head whose entries were counted."""
_MAX_ENTRIES: Final = 256 * 1024
_FORMS: Final = 1024
_FORM_BYTES: Final = 1024
"""At most `_FORMS` heads of at most this size are remembered."""
_INVALID: Final = "<invalid>"
"""Triton's name for every unknown datatype; no model expects it."""
_EMPTY_FINAL: Final = "triton_enable_empty_final_response"
_NUMBER: Final = "version should be an integral value > 0"
_TYPES: Final = {
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    _EMPTY_FINAL: ("bool_param",),
}
"""Fields of InferParameter that a parameter of this name may use."""
_CUSTOM: Final = ("int64_param", "bool_param", "string_param", "double_param")


class LargeHead(Exception):
    """The head is too large for an event loop: parse the message again in a thread."""


class _Region(NamedTuple):
    """A part of a region of shared memory."""

    name: str
    offset: int
    size: int


class _Input(NamedTuple):
    """One input without its data.

    Attributes:
        size: bytes of its data; -1 if only the data tells (BYTES), or the model check refuses it (an unknown datatype).
        region: where its data is; None for in the message.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int
    region: _Region | None


class _Form(NamedTuple):
    """A parsed head.

    Attributes:
        contents: the typed contents of each input, or nothing if no input has any.
        shared: the inputs in shared memory.
        plain: whether all data comes from raw contents, and none of it is BYTES.
    """

    model: str
    version: str
    parameters: Parameters
    inputs: tuple[_Input, ...]
    outputs: tuple[RequestedOutput, ...]
    contents: tuple[Any, ...]
    shared: tuple[SharedInput, ...]
    plain: bool
    empty_final: bool


@dataclasses.dataclass(slots=True)
class Asked:
    """A parsed ModelInferRequest.

    Attributes:
        version: as requested; "" for the highest one that is ready.
        empty_final: whether the caller wants a final response that has no outputs, as a message of its own.
    """

    model: str
    version: str
    body: InferBody
    empty_final: bool = False


class Reader:
    """Parses requests, and remembers their forms."""

    __slots__ = ("_forms", "_kind")

    def __init__(self) -> None:
        self._forms: dict[bytes, _Form] = {}
        self._kind: Any = message_class("inference.ModelInferRequest")

    def read(self, message: bytes | memoryview, *, in_thread: bool = False) -> Asked:
        """Parse a message. Raw contents become views of it; inputs in shared memory have no data yet.

        Args:
            in_thread: whether it may take long.

        Raises:
            LargeHead, ManyElements: it takes long, and `in_thread` is false.
            CodecError, InvalidArgument: naming what is wrong; with Triton's words where it has some.
        """
        head, label, raws = split(message)
        form = self._forms.get(head)
        if form is None:
            form = self._learn(head, in_thread=in_thread)
        inputs = form.inputs
        if form.plain and len(raws) == len(inputs):
            tensors = []
            for (name, datatype, shape, size, _), data in zip(inputs, raws, strict=True):
                if len(data) != size:
                    self._refuse_size(form, label, name, size, len(data))
                tensors.append(Tensor(name, datatype, shape, data))
        else:
            tensors = self._gather(form, label, raws, MAX_ELEMENTS if in_thread else MANY)
        body = InferBody(label, tuple(tensors), form.outputs, dict(form.parameters), True, len(message), form.shared)
        return Asked(form.model, form.version, body, form.empty_final)

    def _learn(self, head: bytes, *, in_thread: bool) -> _Form:
        if len(head) > LARGE:
            if not in_thread:
                raise LargeHead
            if entries(head, _MAX_ENTRIES) >= _MAX_ENTRIES:
                raise InvalidArgument(
                    f"the message has {_MAX_ENTRIES} fields or more; send tensors as raw_input_contents"
                )
        form = _parsed(self._kind, head)
        if len(head) <= _FORM_BYTES and not form.contents:
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            self._forms[head] = form
        return form

    def _gather(self, form: _Form, label: str, raws: list[memoryview], most: int) -> list[Tensor]:
        """The tensors of a request whose data is not all raw numbers."""
        tensors: list[Tensor] = []
        rest = iter(raws)
        contents = form.contents or (None,) * len(form.inputs)
        for each, given in zip(form.inputs, contents, strict=True):
            name, datatype, shape, size, region = each
            if datatype == "BYTES":
                most = spend(most, datatype, shape)
            if region is not None:
                tensors.append(Tensor(name, datatype, shape, b""))
                continue
            data = _typed(each, given, form.model, raws) if given is not None else next(rest, None)
            if data is None:
                raise InvalidArgument(
                    f"unable to find data for input tensor '{name}' for model '{form.model}' in request."
                )
            tensor = Tensor(name, datatype, shape, data)
            if datatype == "BYTES":
                _check_bytes(tensor, form.model, label)
            elif size >= 0 and len(data) != size:
                self._refuse_size(form, label, name, size, len(data))
            tensors.append(tensor)
        if left := len(list(rest)):
            raise InvalidArgument(
                f"unexpected additional input data for model '{form.model}': {left} of raw_input_contents belong to no input"
            )
        return tensors

    @staticmethod
    def _refuse_size(form: _Form, label: str, name: str, size: int, got: int) -> None:
        error = SizeError(f"input byte size mismatch for input '{name}'", f". Expected {size}, got {got}")
        raise CodecError(error.full_text(form.model, label))


def _typed(spec: _Input, contents: Any, model: str, raws: list[memoryview]) -> Buffer:
    if raws:
        raise InvalidArgument(
            f"contents field must not be specified when using raw_input_contents for '{spec.name}' for model '{model}'"
        )
    return typed.raw_bytes(spec.name, spec.datatype, contents, model)


def _check_bytes(tensor: Tensor, model: str, label: str) -> None:
    try:
        check_bytes(tensor)
    except SizeError as error:
        raise CodecError(error.full_text(model, label)) from None


def version_of(text: str) -> str:
    """A requested version without leading zeros; "" for any.

    Raises:
        InvalidArgument: it is not a positive number.
    """
    if not text:
        return ""
    if text.isascii() and text.isdigit() and len(text) < 19:
        version = text.lstrip("0")
        if version:
            return version
    elif not (text[0] == "-" and text[1:].isascii() and text[1:].isdigit() and len(text) < 19):
        raise InvalidArgument(
            f"failed to get model version from specified version string {quoted(text)} (details: stol), {_NUMBER}"
        )
    raise InvalidArgument(f"invalid model version specified {quoted(text)} , {_NUMBER}")


def _parsed(kind: Any, head: bytes) -> _Form:
    try:
        message = kind.FromString(head)
    except DecodeError as error:
        raise CodecError(f"{MALFORMED}: {error}") from None
    if len(message.inputs) > MAX_TENSORS or len(message.outputs) > MAX_TENSORS:
        raise InvalidArgument(
            f"the message has {len(message.inputs)} inputs and {len(message.outputs)} outputs; at most {MAX_TENSORS} are allowed"
        )
    parameters = _parameters(message.parameters)
    empty_final = bool(parameters.pop(_EMPTY_FINAL, False))
    inputs = tuple([_input(each) for each in message.inputs])
    contents: tuple[Any, ...] = ()
    if any(each.HasField("contents") for each in message.inputs):
        contents = tuple([each.contents if each.HasField("contents") else None for each in message.inputs])
    shared = tuple([SharedInput(at, *each.region) for at, each in enumerate(inputs) if each.region is not None])
    return _Form(
        message.model_name, message.model_version, parameters, inputs, tuple(_outputs(message.outputs)), contents, shared,
        not contents and all(each.size >= 0 and each.region is None for each in inputs), empty_final,
    )  # fmt: skip


def _input(message: Any) -> _Input:
    name, datatype = message.name, message.datatype
    shape = check_shape(message.shape, f"input {quoted(name)}")
    item = ITEM_SIZE.get(datatype)
    if item is None:
        return _Input(name, _INVALID, shape, -1, None)
    size = element_count(shape) * item if item else -1
    return _Input(name, datatype, shape, size, _region(name, message.parameters) if message.parameters else None)


def _outputs(messages: Any) -> list[RequestedOutput]:
    outputs: dict[str, RequestedOutput] = {}
    for each in messages:
        name = each.name
        if name in outputs:
            continue  # an output named twice counts once, as first named
        output = outputs[name] = RequestedOutput(name, binary=True)
        if each.parameters:
            output.classes = _classes(each.parameters)
            region = _region(name, each.parameters)
            if region is not None:
                output.region, output.offset, output.byte_size = region
                if output.classes:
                    raise InvalidArgument(f"shared memory can't be used for classification output '{name}'")
    return list(outputs.values())


def _classes(parameters: Any) -> int:
    if "classification" not in parameters:
        return 0
    given = parameters["classification"]
    if given.WhichOneof("parameter_choice") != "int64_param":
        raise InvalidArgument("invalid value type for 'classification' parameter, expected int64_param")
    classes: int = given.int64_param
    if classes <= 0:
        raise InvalidArgument("invalid value for 'classification' parameter, expected >= 0")
    return classes


def _region(tensor: str, parameters: Any) -> _Region | None:
    def value(name: str, kind: str) -> Any:
        if name not in parameters:
            return None
        if parameters[name].WhichOneof("parameter_choice") != kind:
            raise InvalidArgument(f"invalid value type for '{name}' parameter for tensor '{tensor}', expected {kind}.")
        return getattr(parameters[name], kind)

    region = value("shared_memory_region", "string_param")
    if region is None:
        return None
    size, offset = value("shared_memory_byte_size", "int64_param"), value("shared_memory_offset", "int64_param") or 0
    if size is None:
        raise InvalidArgument(
            f"'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor '{tensor}'"
        )
    if size < 0 or offset < 0:
        raise InvalidArgument(
            f"tensor '{tensor}': 'shared_memory_byte_size' {size} and 'shared_memory_offset' {offset} may not be negative"
        )
    return _Region(region, offset, size)


def _parameters(given: Any) -> Parameters:
    if len(given) > MAX_PARAMETERS:
        raise InvalidArgument(f"the request has {len(given)} parameters; at most {MAX_PARAMETERS} are allowed")
    parameters: Parameters = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        kinds = _TYPES.get(name)
        if kinds is None:
            if name.startswith("triton_"):
                raise InvalidArgument(
                    "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
                    f"'triton_' are allowed: {_EMPTY_FINAL}"
                )
            if kind not in _CUSTOM:
                raise InvalidArgument(
                    f"invalid value type for {quoted(name)} parameter, expected int64_param, bool_param, or string_param."
                )
        elif kind not in kinds:
            raise InvalidArgument(f"invalid value type for '{name}' parameter, expected {' or '.join(kinds)}.")
        parameters[name] = getattr(value, kind)
        if name == "priority" and value.int64_param < 0:
            raise InvalidArgument("invalid value for 'priority', expected value >= 0.")
    return parameters
