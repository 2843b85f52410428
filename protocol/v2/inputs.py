"""The inputs of a V2 body: what each has in JSON, after it, or in shared memory. Pure."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from protocol.errors import CodecError, SizeError, quoted
from protocol.json_data import pack_data, packer
from protocol.tensors import ITEM_SIZE, MAX_RANK, Tensor, check_shape, check_size, element_count, spend
from protocol.v2.body import SharedInput
from protocol.v2.parameters import region_part

MAX_TENSORS: Final = 256
_FORMS: Final = 1024
_FORM_NAME: Final = 128
"""At most `_FORMS` forms of inputs are remembered, with names of at most this many characters."""
_TENSOR_RESERVED: Final = ("binary_data_size", "shared_memory_region")
_ONE_SOURCE: Final = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', 'shared_memory_region' in "
    "'parameters'."
)
NOTHING: Final = memoryview(b"")


def parse_inputs(
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
    region, offset, byte_size = region_part(parameters, where)
    size = element_count(tensor.shape) * ITEM_SIZE[tensor.datatype]
    if size != byte_size and tensor.datatype != "BYTES":
        raise SizeError(f"input byte size mismatch for {where}", f". Expected {size}, got {byte_size}")
    return SharedInput(place, region, offset, byte_size)
