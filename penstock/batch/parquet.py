"""Parquet in and out, with the extra `parquet` (pyarrow).

Rows are read by record batches. Answers are kept as a file of packed rows, which, unlike a Parquet file, can be cut and continued
after a kill, until `write_parquet` turns it into the Parquet file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgpack

from penstock.batch.records import Block, Mark
from penstock.batch.rendering import readable
from penstock.paths import similar
from protocol.errors import InvalidArgument, NotFound, Unsupported, quoted
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import Tensor

BATCH_ROWS: Final = 65_536
"""Rows of a row group of the output."""
BATCH_BYTES: Final = 32 * 1024 * 1024
"""Bytes of answers after which a row group ends before that."""
_READ_ROWS: Final = 4_096
_TYPES: Final = {
    "BOOL": "bool_", "FP16": "float32", "BF16": "float32", "FP32": "float32", "FP64": "float64", "BYTES": "binary",
}  # fmt: skip
"""Arrow's types of the datatypes whose names differ."""


def arrow() -> Any:
    """The module pyarrow.

    Raises:
        Unsupported: it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet  # makes pa.parquet
    except ImportError:
        raise Unsupported("Parquet needs pyarrow: pip install 'penstock[parquet]'") from None
    return pa


class ParquetRows:
    """Rows of a Parquet file; a row's number, from 1, is its line.

    Args:
        path: of the file.
        mark: where to begin.
        size: rows of a block.

    Raises:
        NotFound, InvalidArgument: there is no such file, or it is not Parquet.
    """

    blocks_loop = False

    def __init__(self, path: str, mark: Mark, size: int) -> None:
        pa = arrow()
        if path == "-" or not Path(path).is_file():
            if Path(path).exists() or path == "-":
                raise InvalidArgument(f"the input {quoted(path)} is not a file; Parquet cannot be read from a stream")
            raise NotFound(f"there is no input file {quoted(path)}{similar(Path(path))}")
        try:
            self._file = pa.parquet.ParquetFile(path, memory_map=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise InvalidArgument(f"{quoted(path)} is not a Parquet file: {error}") from None
        self.rows = int(self._file.metadata.num_rows)
        self.header: list[str] | None = list(self._file.schema_arrow.names)
        self._pa, self._size = pa, size
        self._line = mark.line
        self._batches = self._batches_from(mark.line - 1)
        self._batch: Any = None
        self._at = 0
        self.columns: Sequence[str] | None = None
        """The columns to read; None for all."""

    def _batches_from(self, row: int) -> Iterator[Any]:
        """Record batches from a row on."""
        start, groups = 0, []
        for number in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(number).num_rows
            if start + rows > row:
                groups.append(number)
                if len(groups) == 1:
                    skip = row - start
            start += rows
        if not groups:
            return
        for batch in self._file.iter_batches(_READ_ROWS, row_groups=groups, columns=self._wanted()):
            if skip < batch.num_rows:
                yield batch.slice(skip)
            skip = max(0, skip - batch.num_rows)

    def _wanted(self) -> list[str] | None:
        return None if self.columns is None else list(self.columns)

    def read(self) -> Block:
        """See `Source.read`."""
        begin = self._line
        wanted = min((begin - 1) // self._size * self._size + self._size + 1, self.rows + 1) - begin
        rows: list[Any] = []
        while len(rows) < wanted and self._fill():
            taken = self._batch.slice(self._at, wanted - len(rows))
            self._at += taken.num_rows
            rows += _rows(self._pa, taken)
        self._line += len(rows)
        last = self._line > self.rows or len(rows) < wanted
        return Block(Mark(begin), Mark(self._line), list(range(begin, self._line)), rows, last)

    def _fill(self) -> bool:
        while self._batch is None or self._at >= self._batch.num_rows:
            self._batch, self._at = next(self._batches, None), 0
            if self._batch is None:
                return False
        return True

    def share(self) -> float | None:
        """See `Source.share`."""
        return (self._line - 1) / self.rows if self.rows else 1.0

    def close(self) -> None:
        """See `Source.close`."""
        self._file.close()


def _rows(pa: Any, batch: Any) -> list[dict[str, Any]]:
    names = batch.schema.names
    columns = [_values(pa, batch.column(number)) for number in range(len(names))]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)] or [{}] * batch.num_rows


def _values(pa: Any, column: Any) -> list[Any]:
    """A column's values: lists of numbers without gaps as arrays, everything else as Python's."""
    types = pa.types
    kind, depth = column.type, []
    values = column
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        if values.null_count:
            return list(column.to_pylist())
        lengths = (
            {kind.list_size} if types.is_fixed_size_list(kind) else set(values.value_lengths().to_numpy().tolist())
        )
        if len(lengths) != 1:
            return list(column.to_pylist())
        depth.append(lengths.pop())
        values, kind = values.flatten(), kind.value_type
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    if not depth or not number or values.null_count:
        return list(column.to_pylist())
    return list(values.to_numpy(zero_copy_only=False).reshape(len(column), *depth))


# --- the output ---


def write_parquet(rows: Path, target: Path, config: ModelConfig) -> None:
    """Turn a file of rows (`rendering.raw_lines`) into a Parquet file, which appears complete or not at all.

    Columns are `line`, the outputs, and `error_code` and `error_message` of lines without an answer.
    """
    pa = arrow()
    schema = _schema_of(pa, config)
    partial = target.with_name(target.name + ".writing")
    with rows.open("rb") as file, partial.open("wb") as out:
        with pa.parquet.ParquetWriter(out, schema) as writer:
            for taken in _taken(file):
                writer.write_table(_table(pa, schema, config, taken))
        out.flush()
        os.fsync(out.fileno())
    partial.replace(target)


def _taken(file: BinaryIO) -> Iterator[list[Any]]:
    """Rows of at most `BATCH_ROWS` and about `BATCH_BYTES`."""
    taken: list[Any] = []
    unpacker = msgpack.Unpacker(file, raw=False, max_buffer_size=2**31 - 1)
    begun = 0
    for row in unpacker:
        taken.append(row)
        if len(taken) == BATCH_ROWS or unpacker.tell() - begun > BATCH_BYTES:
            yield taken
            taken, begun = [], unpacker.tell()
    if taken:
        yield taken


def _schema_of(pa: Any, config: ModelConfig) -> Any:
    outputs = {spec.name for spec in config.outputs}
    line, code, message = (_free(name, outputs) for name in ("line", "error_code", "error_message"))
    fields = [pa.field(line, pa.int64(), nullable=False)]
    fields += [pa.field(spec.name, _type_of(pa, spec)) for spec in config.outputs]
    return pa.schema([*fields, pa.field(code, pa.string()), pa.field(message, pa.string())])


def _free(name: str, taken: set[str]) -> str:
    """The name, with underscores after it if an output has it."""
    while name in taken:
        name += "_"
    return name


def _type_of(pa: Any, spec: TensorSpec) -> Any:
    kind = getattr(pa, _TYPES.get(spec.datatype, spec.datatype.lower()))()
    for _ in spec.dims:
        kind = pa.list_(kind)
    return kind


def _table(pa: Any, schema: Any, config: ModelConfig, rows: list[Any]) -> Any:
    good = [row[1] if type(row[1]) is dict else {} for row in rows]
    columns = [pa.array([row[0] for row in rows], pa.int64())]
    for number, spec in enumerate(config.outputs, 1):
        values = [_value(spec, each[spec.name]) if spec.name in each else None for each in good]
        columns.append(pa.array(values, schema.field(number).type))
    failures = [row if type(row[1]) is str else (None, None, None) for row in rows]
    columns += [pa.array([failure[place] for failure in failures], pa.string()) for place in (1, 2)]
    return pa.Table.from_arrays(columns, schema=schema)


def _value(spec: TensorSpec, packed: list[Any]) -> Any:
    shape, data = packed
    array = readable(Tensor(spec.name, spec.datatype, tuple(shape), data))
    return array if array.ndim == 1 and array.dtype != object else array.tolist()
