"""Answers as lines of output: JSON, one line per row. Pure.

NaN becomes null, as in the V2 protocol's JSON. What JSON cannot say (an infinity, bytes that are not UTF-8) is an error of its
line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import orjson

from penstock.batch.packing import row_ends
from penstock.batch.records import Bad, bad
from protocol import bfloat16
from protocol.errors import Code, CodecError
from protocol.frames import pack
from protocol.tensors import Array, Tensor

Answer = bytes | Bad
"""A row's line of output, or why it has none."""
Render = Callable[[Sequence[int], Sequence[Tensor], bool], list[Answer]]
"""Makes the answers of rows from their lines, their outputs, and whether the model batches; see `json_lines`."""

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_LINE: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


def json_lines(lines: Sequence[int], outputs: Sequence[Tensor], batching: bool) -> list[Answer]:
    """A line of JSON per row.

    Args:
        lines: of the rows, in their order.
        outputs: with all rows in the first dimension if the model batches.
        batching: whether it does; otherwise there is one row.

    Raises:
        CodecError: an output has another number of rows.
    """
    arrays = {tensor.name: readable(tensor) for tensor in outputs}
    if batching:
        for name, array in arrays.items():
            if array.ndim == 0 or array.shape[0] != len(lines):
                raise CodecError(f"output '{name}' has shape {list(array.shape)}, and the record {len(lines)} rows")
    else:
        arrays = {name: array.reshape((1, *array.shape)) for name, array in arrays.items()}
    if all(array.dtype != object and _finite(array) for array in arrays.values()):
        return _fast(lines, arrays)
    return [_slow(line, {name: array[number] for name, array in arrays.items()}) for number, line in enumerate(lines)]


def _finite(array: Array) -> bool:
    """Whether JSON can say every element; NaN counts as such."""
    return array.dtype.kind != "f" or not bool(np.isinf(array).any())


def readable(tensor: Tensor) -> Array:
    """Its array, with numbers of 16 bits as floats."""
    if tensor.datatype == "BF16":
        return bfloat16.to_floats(tensor.array())
    array = tensor.array()
    return array.astype(np.float32) if tensor.datatype == "FP16" else array


def _fast(lines: Sequence[int], arrays: dict[str, Array]) -> list[Answer]:
    """The lines of numbers: each output is written by one call and cut into its rows."""
    heads: list[bytes] = [orjson.dumps(name) + b":" for name in arrays]
    columns = [_rows(array) for array in arrays.values()]
    if len(columns) == 1:
        head = b',"outputs":{' + heads[0]
        return [b'{"line":%d%b%b}}\n' % (line, head, text) for line, text in zip(lines, columns[0], strict=True)]
    found: list[Answer] = []
    for number, line in enumerate(lines):
        parts = b",".join([head + column[number] for head, column in zip(heads, columns, strict=True)])
        found.append(b'{"line":%d,"outputs":{%b}}\n' % (line, parts))
    return found


def _rows(array: Array) -> list[bytes]:
    """The JSON of each row."""
    count = array.shape[0]
    if array.ndim <= 2 and math.prod(array.shape) > 0:
        text = orjson.dumps(np.ascontiguousarray(array), option=_NUMPY)
        return text[1:-1].split(b",") if array.ndim == 1 else [b"[%b]" % row for row in text[2:-2].split(b"],[")]
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    return [orjson.dumps(contiguous[number], option=_NUMPY) for number in range(count)]


def _slow(line: int, row: dict[str, Any]) -> Answer:
    values: dict[str, Any] = {}
    for name, array in row.items():
        if isinstance(array, np.generic | np.ndarray) and array.dtype != object:
            if not _finite(np.asarray(array)):
                return _unsaid(f"output '{name}' holds Infinity, which JSON cannot say")
            values[name] = array.tolist()
            continue
        try:
            values[name] = _decoded(array)
        except UnicodeDecodeError:
            return _unsaid(f"output '{name}' holds bytes that are not UTF-8, which JSON cannot say")
    return orjson.dumps({"line": line, "outputs": values}, option=_LINE)


def _unsaid(text: str) -> Bad:
    return bad(f"{text}; write the output as Parquet", Code.UNSUPPORTED)


def _decoded(value: Any) -> Any:
    """BYTES elements as text, in the lists of the array."""
    if isinstance(value, bytes):
        return value.decode()
    texts = np.empty(value.shape, dtype=object)
    texts.reshape(-1)[:] = [element.decode() for element in value.reshape(-1)]
    return texts.tolist()


def raw_lines(lines: Sequence[int], outputs: Sequence[Tensor], batching: bool) -> list[Answer]:
    """Each row packed with its raw bytes; see `json_lines`."""
    count = len(lines)
    for tensor in outputs:
        if batching and (not tensor.shape or tensor.shape[0] != count):
            raise CodecError(f"output '{tensor.name}' has shape {list(tensor.shape)}, and the record {count} rows")
    if not batching:
        outputs = [Tensor(each.name, each.datatype, (1, *each.shape), each.data) for each in outputs]
    cut = [(tensor.name, tensor.shape[1:], memoryview(tensor.data), _starts(tensor, count)) for tensor in outputs]
    return [
        pack([line, {name: [shape, data[at[row] : at[row + 1]]] for name, shape, data, at in cut}])
        for row, line in enumerate(lines)
    ]


def _starts(tensor: Tensor, count: int) -> list[int]:
    return [0, *row_ends(tensor, count).tolist()]


def raw_error(line: int, failure: Bad) -> bytes:
    """A packed row without an answer."""
    return pack([line, failure.code.value, failure.message])


def error_line(line: int, failure: Bad) -> bytes:
    """The line of JSON of a row without an answer."""
    return orjson.dumps(
        {"line": line, "error": {"code": failure.code.value, "message": failure.message}},
        option=orjson.OPT_APPEND_NEWLINE,
    )
