"""What a row's columns mean for a model: which column is which input, and whether its values fit. Pure.

Nothing is rounded to integers, wrapped or guessed. Rows are packed many at a time; only when that fails is each looked at alone, to
say which line is wrong and why.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from penstock.batch.records import Bad, bad
from penstock.client.values import array_of
from protocol import bfloat16
from protocol.errors import CodecError, FleetError, InvalidArgument, quoted
from protocol.json_data import pack_data
from protocol.model_config import ModelConfig, TensorSpec
from protocol.request_check import fits
from protocol.tensors import NUMPY_DTYPE, Array, Tensor, from_array, pack_bytes

_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}
_NOT_PACKED: Final = ("FP16", "BF16")
"""Datatypes that `pack_data` does not take."""


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Rows of one shape, as tensors with all of them in the first dimension."""

    lines: list[int]
    tensors: tuple[Tensor, ...]


def read_map(texts: Sequence[str], config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The columns of each input, from `--map COLUMN=INPUT`; inputs that are not named have the column of their name.

    Raises:
        InvalidArgument: a text is not of that form, or names no input.
    """
    given: dict[str, tuple[str, ...]] = {}
    for text in texts:
        column, equals, name = text.rpartition("=")
        if not equals or not column or not name:
            raise InvalidArgument(f"--map {quoted(text)} must be COLUMN=INPUT")
        if config.input(name) is None:
            raise InvalidArgument(
                f"--map {quoted(text)}: model '{config.name}' has no input {quoted(name)}; it has {_names(config)}"
            )
        given[name] = (*given.get(name, ()), column)
    return {spec.name: given.get(spec.name, (spec.name,)) for spec in config.inputs}


def _names(config: ModelConfig) -> str:
    return ", ".join(f"{spec.name} {wanted(spec)}" for spec in config.inputs) or "none"


def wanted(spec: TensorSpec) -> str:
    """What an input needs, for a person: `FP32[4]`."""
    return f"{spec.datatype}[{','.join(map(str, spec.dims))}]"


class Columns:
    """Turns rows of named values into groups of tensors.

    Args:
        config: the model's.
        mapped: the columns of each input (`read_map`); of several, each holds one number of the input's only dimension.
    """

    def __init__(self, config: ModelConfig, mapped: Mapping[str, tuple[str, ...]]) -> None:
        self.config = config
        self._inputs = [(spec, mapped[spec.name]) for spec in config.inputs]
        self._batching = config.batching
        for spec, columns in self._inputs:
            if len(columns) > 1 and not _takes_columns(spec, len(columns)):
                raise InvalidArgument(
                    f"--map gives input '{spec.name}' {len(columns)} columns; it needs {wanted(spec)}: give it one column, or "
                    "one for each of its numbers"
                )
        self._plain = self._batching and all(_is_plain(spec) and len(cols) == 1 for spec, cols in self._inputs)

    @property
    def fixed(self) -> bool:
        """Whether all rows have the same shape."""
        return all(_is_plain(spec) for spec, _ in self._inputs)

    def arrange(self, lines: Sequence[int], rows: Sequence[Any]) -> tuple[list[Group], list[tuple[int, Bad]]]:
        """Groups of rows of one shape, in the order of their first rows, and the lines that fit no shape.

        Args:
            lines: their numbers.
            rows: values by column, or `Bad`.
        """
        if self._plain and rows:
            try:
                tensors = [self._stacked(spec, [row[columns[0]] for row in rows]) for spec, columns in self._inputs]
            except (KeyError, TypeError, FleetError):
                pass
            else:
                return [Group(list(lines), tuple(tensors))], []
        return self._arranged(lines, rows)

    def _stacked(self, spec: TensorSpec, values: list[Any]) -> Tensor:
        """One input of all rows; raises `CodecError` if any of them is not a flat or nested list of the right lengths."""
        shape = (len(values), *spec.dims)
        if type(values[0]) is np.ndarray:
            return _of_arrays(spec, values, shape)
        flat = _flat(spec, values)
        if spec.datatype == "BYTES":
            return Tensor(spec.name, "BYTES", shape, pack_bytes(_texts(flat)))
        if spec.datatype in _NOT_PACKED:
            return _typed(spec, array_of(spec.name, spec.datatype, flat).reshape(shape))
        return Tensor(spec.name, spec.datatype, shape, pack_data(spec.name, spec.datatype, shape, flat))

    def _arranged(self, lines: Sequence[int], rows: Sequence[Any]) -> tuple[list[Group], list[tuple[int, Bad]]]:
        found: dict[object, tuple[list[int], list[tuple[Tensor, ...]]]] = {}
        wrong: list[tuple[int, Bad]] = []
        for line, row in zip(lines, rows, strict=True):
            if type(row) is Bad:
                wrong.append((line, row))
                continue
            try:
                tensors = self._one(row)
            except FleetError as error:
                wrong.append((line, bad(error.message, error.code)))
                continue
            key: object = tuple([(tensor.name, tensor.shape) for tensor in tensors]) if self._batching else line
            numbers, parts = found.setdefault(key, ([], []))
            numbers.append(line)
            parts.append(tensors)
        return [Group(numbers, self._joined(parts)) for numbers, parts in found.values()], wrong

    def _joined(self, parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        if not self._batching:
            return parts[0]
        return tuple(
            Tensor(
                each.name,
                each.datatype,
                (len(parts), *each.shape[1:]),
                b"".join([row[number].data for row in parts]),
            )
            for number, each in enumerate(parts[0])
        )

    def _one(self, row: Any) -> tuple[Tensor, ...]:
        """The inputs of one row.

        Raises:
            CodecError: names the column, what it holds and what is needed.
        """
        if type(row) is not dict:
            raise CodecError(f"a line is an object of one row, such as {self._example()}, not {quoted(row)}")
        tensors = []
        for spec, columns in self._inputs:
            missing = [column for column in columns if column not in row]
            if len(missing) == len(columns) and spec.optional:
                continue
            if missing:
                raise CodecError(
                    f"column {quoted(missing[0])} is missing; input '{spec.name}' needs {wanted(spec)}; the line has "
                    f"{', '.join(quoted(name) for name in itertools.islice(row, 16)) or 'no columns'}"
                )
            value = row[columns[0]] if len(columns) == 1 else [row[column] for column in columns]
            tensors.append(self._row_tensor(spec, columns, value))
        return tuple(tensors)

    def _row_tensor(self, spec: TensorSpec, columns: tuple[str, ...], value: object) -> Tensor:
        shown = value.shape if isinstance(value, np.ndarray) else value
        shown_columns = quoted(columns[0]) + (f" to {quoted(columns[-1])}" if len(columns) > 1 else "")
        says = f"column {shown_columns} holds {quoted(shown)}, and input '{spec.name}' needs {wanted(spec)}"
        try:
            array = _array(spec, value)
        except CodecError as error:
            why = error.message.removeprefix(f"input '{spec.name}': ")
            raise CodecError(f"{says}: {why}") from None
        if array.ndim == 0 and all(size == 1 for size in spec.dims):
            array = array.reshape(spec.dims)
        if not fits(array.shape, spec.dims):
            raise CodecError(f"{says}: its shape is {list(array.shape)}")
        return _typed(spec, array.reshape((1, *array.shape)) if self._batching else array)

    def _example(self) -> str:
        first = self._inputs[0] if self._inputs else None
        return orjson.dumps({first[1][0]: [0] * min(4, math.prod(first[0].dims))} if first else {}).decode()


def _is_plain(spec: TensorSpec) -> bool:
    return not spec.optional and all(size > 0 for size in spec.dims)


def _takes_columns(spec: TensorSpec, count: int) -> bool:
    return len(spec.dims) == 1 and spec.dims[0] in (-1, count)


def _flat(spec: TensorSpec, values: list[Any]) -> list[Any]:
    """The elements of all values; raises `CodecError` unless each has exactly the input's shape."""
    dims = spec.dims
    kinds = set(map(type, values))
    if list not in kinds and math.prod(dims) == 1:
        return values
    level = values
    for size in dims:
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise CodecError("not of one shape")
        level = list(itertools.chain.from_iterable(level))
    if level and type(level[0]) is list:  # lists after values are noticed when they are packed
        raise CodecError("nested too deep")
    return level


def _texts(values: list[Any]) -> list[Any]:
    if not {str, bytes}.issuperset(map(type, values)):
        raise CodecError("'data' of datatype BYTES must hold strings")
    return values


def _array(spec: TensorSpec, value: object) -> Array:
    if isinstance(value, np.ndarray):
        return _cast(spec, value)
    if spec.datatype != "BYTES":
        return array_of(spec.name, spec.datatype, value)
    if isinstance(value, bytes) or (isinstance(value, list) and value and isinstance(value[0], bytes)):
        array = np.empty(1 if isinstance(value, bytes) else len(value), dtype=object)
        array[:] = _texts([value] if isinstance(value, bytes) else value)
        return array.reshape(()) if isinstance(value, bytes) else array
    return array_of(spec.name, "BYTES", value)


def _of_arrays(spec: TensorSpec, values: list[Any], shape: tuple[int, ...]) -> Tensor:
    if {type(value) for value in values} != {np.ndarray} or {value.shape for value in values} != {spec.dims}:
        raise CodecError("not of one shape")
    return _typed(spec, _cast(spec, np.stack(values)).reshape(shape))


def _cast(spec: TensorSpec, array: Array) -> Array:
    """The array in the input's datatype, if every value has a place there.

    Raises:
        CodecError: one has none, or it is of another kind.
    """
    target = NUMPY_DTYPE[spec.datatype]
    kind = array.dtype.kind
    if array.dtype == target:
        return array
    if kind in "fiu" and (target.kind == "f" or spec.datatype == "BF16"):
        with np.errstate(over="ignore"):
            found = array.astype(np.float32 if spec.datatype == "BF16" else target)
        if kind == "f" and not (np.isfinite(found) | ~np.isfinite(array)).all():
            raise CodecError(f"'data' has a value outside the range of {spec.datatype}")
        return bfloat16.to_bits(found) if spec.datatype == "BF16" else found
    if kind in "iu" and target.kind in "iu":
        limits = np.iinfo(target)
        if array.size and not (int(array.min()) >= limits.min and int(array.max()) <= limits.max):
            raise CodecError(f"'data' has a value outside the range of {spec.datatype}")
        return array.astype(target)
    raise CodecError(f"'data' must hold only values of datatype {spec.datatype}, not {array.dtype}")


def _typed(spec: TensorSpec, array: Array) -> Tensor:
    tensor = from_array(spec.name, array, "BF16" if spec.datatype == "BF16" else None)
    if tensor.datatype != spec.datatype:
        raise CodecError(f"it is {tensor.datatype}, and input '{spec.name}' needs {spec.datatype}")
    return tensor


class TextColumns:
    """Turns rows of text cells (CSV) into values by column, as `Columns` takes them.

    Args:
        header: the names of the columns.
        config: the model's.
        mapped: the columns of each input; a name may have `*` and `?`, as in `pixel*=X`.
        raw: columns whose cells stay text, such as the paths of images.

    Raises:
        InvalidArgument: a column that an input needs is not there, or a name is there twice.
    """

    def __init__(
        self,
        header: Sequence[str],
        config: ModelConfig,
        mapped: Mapping[str, tuple[str, ...]],
        raw: Collection[str] = (),
    ) -> None:
        self.width = len(header)
        self.mapped: dict[str, tuple[str, ...]] = {}
        self._cells: list[_Cells] = []
        for spec in config.inputs:
            columns = expanded(mapped[spec.name], header)
            missing = [column for column in columns if column not in header]
            if missing and spec.optional:
                self.mapped[spec.name] = mapped[spec.name]
                continue
            if missing:
                raise InvalidArgument(
                    f"the input has no column {quoted(missing[0])}, which input '{spec.name}' needs; it has "
                    f"{', '.join(map(quoted, header[:32]))}; --map COLUMN={spec.name} names another"
                )
            for column in columns:
                if header.count(column) > 1:
                    raise InvalidArgument(f"the input has {header.count(column)} columns named {quoted(column)}")
            numbers = [header.index(column) for column in columns]
            self._cells.append(_Cells(spec, columns, numbers, raw=not set(columns).isdisjoint(raw)))
            self.mapped[spec.name] = (self._cells[-1].key,)
        used = {column for cells in self._cells for column in cells.columns}
        self.unused = [column for column in header if column not in used]

    def values(self, cells: Sequence[str]) -> dict[str, Any] | Bad:
        """The values by column, or why a cell is not what its input needs."""
        if len(cells) != self.width:
            return bad(f"the line has {len(cells)} cells, and the header names {self.width} columns")
        try:
            return {each.key: each.value(cells) for each in self._cells}
        except CodecError as error:
            return bad(error.message)


class _Cells:
    """The cells of one input."""

    def __init__(self, spec: TensorSpec, columns: tuple[str, ...], numbers: list[int], *, raw: bool = False) -> None:
        self.columns = columns
        self.key = columns[0] if len(columns) == 1 else f"{columns[0]}…{columns[-1]}"
        self._spec, self._numbers = spec, numbers
        self._is_list = not raw and len(columns) == 1 and math.prod(spec.dims) != 1
        self._read = str if raw else _listed if self._is_list else _READERS.get(spec.datatype, _floating)

    def value(self, cells: Sequence[str]) -> Any:
        """The input's value in a row.

        Raises:
            CodecError: a cell cannot be read; the message names its column.
        """
        try:
            if len(self._numbers) == 1:
                return self._read(cells[self._numbers[0]])
            return [self._read(cells[number]) for number in self._numbers]
        except ValueError:
            at = next(number for number, index in enumerate(self._numbers) if not _reads(self._read, cells[index]))
            as_list = " as a JSON list" if self._is_list else ""
            raise CodecError(
                f"column {quoted(self.columns[at])} holds {quoted(cells[self._numbers[at]])}, and input '{self._spec.name}' "
                f"needs {wanted(self._spec)}{as_list}"
            ) from None


def expanded(columns: Sequence[str], header: Sequence[str]) -> tuple[str, ...]:
    """The columns with patterns (`*`, `?`) replaced by the header's names, in its order; a name that is there is no pattern."""
    found: list[str] = []
    for column in columns:
        pattern = column not in header and any(sign in column for sign in "*?")
        matches = [name for name in header if fnmatch.fnmatchcase(name, column)] if pattern else []
        found += matches or [column]
    return tuple(found)


def _reads(read: Any, cell: str) -> bool:
    try:
        read(cell)
    except ValueError:
        return False
    return True


def _floating(cell: str) -> float:
    if "_" in cell:
        raise ValueError
    return float(cell)


def _integer(cell: str) -> int:
    if "_" in cell or len(cell) > 40:
        raise ValueError
    return int(cell)


def _boolean(cell: str) -> bool:
    try:
        return _BOOLEANS[cell.strip().lower()]
    except KeyError:
        raise ValueError from None


def _listed(cell: str) -> list[Any]:
    value = orjson.loads(cell)  # a JSONDecodeError is a ValueError
    if type(value) is not list:
        raise ValueError
    return value


_READERS: Final[dict[str, Any]] = {"BOOL": _boolean, "BYTES": str} | dict.fromkeys(
    ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"), _integer
)
