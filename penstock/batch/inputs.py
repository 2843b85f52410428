"""Opens a job's input for a model: its format, its columns, its images, and how many rows travel together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from penstock.batch.columns import Columns, TextColumns, expanded, read_map
from penstock.batch.images import Images
from penstock.batch.parquet import ParquetRows
from penstock.batch.records import Block, Mark
from penstock.batch.request import Request
from penstock.batch.sources import STANDARD, CsvLines, Source, kind_of, open_source
from penstock.batch.state import fingerprint
from protocol.errors import InvalidArgument, quoted
from protocol.model_config import ModelConfig

MOST_ROWS: Final = 256
"""Rows of a record, unless asked otherwise."""
SPREAD: Final = 128
"""Records into which a small file is divided at least, if it has that many rows: for many workers."""
STREAM_ROWS: Final = 32
"""Rows of a record of a stream."""
MIXED_BLOCK: Final = 8
"""Records' worth of rows among which those of one shape are gathered."""

Mapped = dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """An open input.

    Attributes:
        source: reads blocks.
        columns: turns their rows into tensors.
        images: readers of image columns.
        unused: columns that no input of the model needs.
    """

    source: Source
    columns: Columns
    images: list[Images]
    unused: list[str]

    @property
    def waits(self) -> bool:
        """Whether reading takes long, and must not happen on the event loop."""
        return self.source.blocks_loop or bool(self.images)

    def read(self) -> Block:
        """The next block, with its images."""
        block = self.source.read()
        for images in self.images:
            block.rows = [images.decode(row) for row in block.rows]
        return block


def open_input(request: Request, config: ModelConfig, mark: Mark, rows: int) -> Input:
    """Open the input and check it against the model.

    Args:
        request: names it.
        config: the model's.
        mark: where to begin.
        rows: of a record.

    Raises:
        FleetError, OSError: it cannot be read, or has not the columns that the model needs.
    """
    mapped = read_map(request.maps, config)
    images = _images(request, config, mapped)
    fixed = all(not spec.optional and all(size > 0 for size in spec.dims) for spec in config.inputs)
    kind = kind_of(request.source, request.input_format)
    source = open_source(request.source, kind, mark, rows if fixed else rows * MIXED_BLOCK)
    unused: list[str] = []
    try:
        if isinstance(source, CsvLines):
            text = TextColumns(source.header, config, mapped, raw={each.column for each in images})
            source.convert, mapped, unused = text.values, text.mapped, text.unused
        elif isinstance(source, ParquetRows):
            mapped, unused = _parquet_columns(source, config, mapped)
        return Input(source, Columns(config, mapped), images, unused)
    except BaseException:
        source.close()
        raise


def rows_per_record(request: Request) -> int:
    """How many rows a record gets: as asked, or so that a small file still has `SPREAD` records.

    Raises:
        FleetError, OSError: the input cannot be read.
    """
    if request.rows:
        return request.rows
    if not fingerprint(request.source):
        return STREAM_ROWS
    source = open_source(request.source, kind_of(request.source, request.input_format), Mark(), MOST_ROWS)
    try:
        block = source.read()
        share = source.share() or 1.0
    finally:
        source.close()
    rows = len(block.lines) / max(share, 1e-9)
    return max(1, min(MOST_ROWS, round(rows / SPREAD)))


def _images(request: Request, config: ModelConfig, mapped: Mapped) -> list[Images]:
    """The readers of image columns, which also map their columns to their inputs.

    Raises:
        InvalidArgument: an input is not there, or is not named and the model has several.
    """
    found = []
    folder = Path.cwd() if request.source == STANDARD else Path(request.source).resolve().parent
    for text in request.image_columns:
        column, _, name = text.partition("=")
        if not name:
            fitting = [spec.name for spec in config.inputs if mapped[spec.name] == (column,)] or [
                spec.name for spec in config.inputs
            ]
            if len(fitting) != 1:
                raise InvalidArgument(
                    f"--image-column {quoted(text)} must name its input: {column}=INPUT, one of {', '.join(fitting)}"
                )
            name = fitting[0]
        spec = config.input(name)
        if spec is None:
            raise InvalidArgument(f"--image-column {quoted(text)}: the model has no input {quoted(name)}")
        mapped[name] = (column,)
        found.append(Images(column, spec, folder, request.mean, request.std))
    return found


def _parquet_columns(source: ParquetRows, config: ModelConfig, mapped: Mapped) -> tuple[Mapped, list[str]]:
    """The columns of each input with patterns expanded, and those that are not read.

    Raises:
        InvalidArgument: a column that an input needs is not there.
    """
    header = source.header or []
    found: Mapped = {}
    for spec in config.inputs:
        columns = expanded(mapped[spec.name], header)
        missing = [column for column in columns if column not in header]
        if missing and not spec.optional:
            raise InvalidArgument(
                f"the input has no column {quoted(missing[0])}, which input '{spec.name}' needs; it has "
                f"{', '.join(map(quoted, header[:32]))}; --map COLUMN={spec.name} names another"
            )
        found[spec.name] = columns
    used = {column for columns in found.values() for column in columns}
    source.columns = [name for name in header if name in used]
    return found, [name for name in header if name not in used]
