"""What `-i NAME=JSON` and `--shape NAME=SIZES` mean, and a sentence with an example when they mean nothing. Pure."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import orjson

from penstock.client.values import array_of
from protocol.errors import CodecError, InvalidArgument, quoted
from protocol.request_check import fits
from protocol.suggestions import did_you_mean
from protocol.tensors import Array

T = TypeVar("T")
MAX_ELEMENTS: Final = 1 << 28
"""Elements of one input of made-up values: more would exceed every limit of a request."""
_SHOWN: Final = 12
"""Elements of an input up to which an example shows all of it."""
_NO_NUMBER: Final = re.compile(r"-?(nan|inf(inity)?)\b", re.IGNORECASE)
_SAMPLE: Final = {"BYTES": "text", "BOOL": True, "FP16": 0.5, "BF16": 0.5, "FP32": 0.5, "FP64": 0.5}

Metadata = Mapping[str, Any]
"""An input as V2's model metadata describes it: `name`, `datatype`, `shape`."""


def parse_input(text: str, inputs: Mapping[str, Metadata]) -> tuple[str, Array]:
    """The name and the array of `NAME=JSON`.

    Raises:
        InvalidArgument: says what is wrong with it, and gives an example that is right.
    """
    name, equals, raw = text.partition("=")
    if not equals:
        raise InvalidArgument(f"--input {quoted(text)} must be NAME=JSON; {_examples(inputs)}")
    entry = _known("--input", name, inputs)
    try:
        array = array_of(name, entry["datatype"], orjson.loads(raw))
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"--input {name}: {_not_json(raw, error)}; write {_example(entry)}") from None
    except CodecError as error:
        said = error.message.removeprefix("input ").replace("'data'", "the JSON")
        raise InvalidArgument(f"--input {said}; write {_example(entry)}") from None
    if not array.shape and set(entry["shape"]) == {1}:  # a scalar, which metadata has as one element
        array = array.reshape(entry["shape"])
    _check_shape(array, entry)
    return name, array


def _not_json(raw: str, error: orjson.JSONDecodeError) -> str:
    """Why a text cannot be read as JSON."""
    if not raw:
        return "there is no value"
    if _NO_NUMBER.match(raw, error.pos):
        return f"{quoted(raw)} has NaN or an infinity, which JSON has not; a Python client can send them"
    if "infinity" in error.msg:
        return f"{quoted(raw)} has a number that is too large for any datatype"
    if "depth" in error.msg:
        return f"{quoted(raw)} is nested too deeply"
    return f"{quoted(raw)} is not JSON, from character {error.pos + 1} on"


def each_once(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """What is stated of each input.

    Raises:
        InvalidArgument: an input comes twice.
    """
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidArgument(f"input '{name}' is given twice; give it once, by --input or by --shape")
        found[name] = value
    return found


def parse_shape(text: str, inputs: Mapping[str, Metadata]) -> tuple[str, tuple[int, ...]]:
    """The name and the shape of `NAME=1,3,224,224`; nothing after the equals sign is a single value.

    Raises:
        InvalidArgument: it is no shape, or one that the model does not take.
    """
    name, equals, raw = text.rpartition("=")
    if not equals:
        raise InvalidArgument(f"--shape {quoted(text)} must be NAME=SIZES; {_shape_example(inputs)}")
    entry = _known("--shape", name, inputs)
    sizes = raw.strip("[] ").split(",") if raw.strip("[] ") else []
    if not all(size.strip().isascii() and size.strip().isdigit() and len(size) < 12 for size in sizes):
        raise InvalidArgument(f"--shape {name}: {quoted(raw)} must be sizes with commas; {_shape_example(inputs)}")
    shape = tuple(int(size) for size in sizes)
    if not fits(shape, entry["shape"]):
        raise InvalidArgument(f"--shape {name}: {_misfit(shape, entry)}")
    if math.prod(shape) > MAX_ELEMENTS:
        raise InvalidArgument(f"--shape {name}: {list(shape)} has {math.prod(shape)} elements, more than a request can")
    return name, shape


def missing(given: Iterable[str], required: Iterable[str], inputs: Mapping[str, Metadata]) -> str:
    """The error about a request without some inputs, which says how to give them; "" if there are all."""
    absent = [inputs[name] for name in required if name not in set(given)]
    if not absent:
        return ""
    flags = " ".join(_example(entry) for entry in absent)
    named = ", ".join(f"'{entry['name']}'" for entry in absent)
    return f"the model needs the input{'s' if len(absent) > 1 else ''} {named}: give {flags}, or let --random make up the rest"


def certain(inputs: Iterable[Metadata], *, batches: bool) -> str:
    """Flags for the inputs that are one integer, which may have to be a certain one, such as a sampling rate; "" for none.

    Args:
        inputs: those that are made up.
        batches: whether the first size counts rows.
    """
    flags = []
    for entry in inputs:
        shape = entry["shape"]
        if "INT" in entry["datatype"] and all(size == 1 for size in shape[1 if batches else 0 :]):
            value = f"{'[' * len(shape)}NUMBER{']' * len(shape)}"
            flags.append(f"-i {shlex.quote(entry['name'] + '=' + value)}")
    return " ".join(flags)


def _known(flag: str, name: str, inputs: Mapping[str, Metadata]) -> Metadata:
    if name not in inputs:
        has = f"it has {', '.join(inputs)}" if inputs else "it has none"
        raise InvalidArgument(f"{flag}: the model has no input {quoted(name)}; {has}{did_you_mean(name, inputs)}")
    return inputs[name]


def _check_shape(array: Array, entry: Metadata) -> None:
    if not fits(array.shape, entry["shape"]):
        raise InvalidArgument(f"--input {entry['name']}: {_misfit(array.shape, entry)}; write {_example(entry)}")


def _misfit(shape: Sequence[int], entry: Metadata) -> str:
    wanted = entry["shape"]
    free = " (-1 is any size)" if -1 in wanted else ""
    text = f"its shape is {list(shape)}, and the model takes {list(wanted)}{free}"
    if len(shape) + 1 == len(wanted) and fits((1, *shape), wanted):
        text += "; the first size counts rows: put one more pair of brackets around it"
    return text


def _examples(inputs: Mapping[str, Metadata]) -> str:
    return f"write {' '.join(map(_example, inputs.values()))}" if inputs else "the model takes no inputs"


def _example(entry: Metadata) -> str:
    """The flag as a shell takes it."""
    shape = [1 if size < 0 else size for size in entry["shape"]]
    if math.prod(shape) <= _SHOWN:
        return "-i " + shlex.quote(f"{entry['name']}={orjson.dumps(_nested(entry['datatype'], shape)).decode()}")
    first = _nested(entry["datatype"], [1] * len(shape))
    text = orjson.dumps(first).decode()
    inner = text.strip("[]")
    elided = text.replace(inner, f"{inner}, …", 1)
    return f"-i {shlex.quote(entry['name'] + '=' + elided)} with all {math.prod(shape)} values of shape {shape}"


def _nested(datatype: str, shape: Sequence[int]) -> Any:
    if not shape:
        return _SAMPLE.get(datatype, 1)
    return [_nested(datatype, shape[1:]) for _ in range(shape[0])]


def _shape_example(inputs: Mapping[str, Metadata]) -> str:
    entry = next(iter(inputs.values()), None)
    if entry is None:
        return "the model takes no inputs"
    sizes = ",".join(str(1 if size < 0 else size) for size in entry["shape"])
    return f"for example --shape {shlex.quote(entry['name'] + '=' + sizes)}"
