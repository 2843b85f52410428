"""Reading the input: JSON lines, CSV, Parquet; files and streams, block by block, from any block on.

A block ends at a line number that is a multiple of its size, or after `BLOCK_BYTES`: so blocks, and with them records and ids, are
the same wherever reading begins. A source holds one block in memory, whatever the file's size.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import orjson

from penstock.batch.records import Bad, Block, Mark, bad
from penstock.paths import similar
from protocol.errors import Code, InvalidArgument, NotFound, quoted
from protocol.frames import MAX_RECORD

STANDARD: Final = "-"
"""Standard input or output."""
MAX_LINE: Final = MAX_RECORD
"""Bytes of a line or of a CSV row; a longer one is an error of its line."""
BLOCK_BYTES: Final = 4 * 1024 * 1024
"""Bytes of lines after which a block ends before its size is reached."""
KINDS: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_BOM: Final = codecs.BOM_UTF8
_BOMS_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS: Final = {"csv": ",", "tsv": "\t"}


class Source(Protocol):
    """An input that is being read.

    Attributes:
        blocks_loop: reading may wait for another process, and must not happen on the event loop.
    """

    blocks_loop: bool

    @property
    def header(self) -> list[str] | None:
        """The names of its columns, if the input names them once for all rows."""

    def read(self) -> Block:
        """The next block; `Block.last` says that nothing follows."""

    def share(self) -> float | None:
        """The share of the input that was read, from 0 to 1; None if its size is unknown."""

    def close(self) -> None:
        """Close the file."""


def kind_of(path: str, given: str = "") -> str:
    """The input's format, `jsonl`, `csv`, `tsv` or `parquet`: as given, or by the file's name; standard input is `jsonl`.

    Raises:
        InvalidArgument: the name says none.
    """
    if given or path == STANDARD:
        return given or "jsonl"
    suffix = Path(path).suffix.lower()
    if suffix not in KINDS:
        raise InvalidArgument(
            f"the format of {quoted(path)} is not known by its name ({', '.join(KINDS)}): give --input-format"
        )
    return KINDS[suffix]


def check_input(path: str, kind: str) -> None:
    """Check that the input is there.

    Raises:
        NotFound, InvalidArgument: it is not, or is a folder, or not what its format can be read from.
        Unsupported: the extra for its format is not installed.
        OSError: it cannot be read.
    """
    if kind == "parquet":
        from penstock.batch.parquet import ParquetRows

        ParquetRows(path, Mark(), 1).close()
        return
    if path == STANDARD:
        return
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a FIFO or device is welcome
    except FileNotFoundError:
        raise NotFound(f"there is no input file {quoted(path)}{similar(Path(path))}") from None
    if stat.S_ISDIR(mode):
        raise InvalidArgument(f"the input {quoted(path)} is a folder; give one file")
    if stat.S_ISREG(mode):
        open(path, "rb").close()  # noqa: PTH123


def open_file(path: str) -> BinaryIO:
    """The input's bytes. Opening a FIFO waits for whoever writes to it.

    Raises:
        NotFound, InvalidArgument, OSError: as `check_input`.
    """
    if path == STANDARD:
        # Not `sys.stdin`: Python ends with an error if a thread still waits in it.
        return open(sys.stdin.fileno(), "rb", buffering=1024 * 1024, closefd=False)
    check_input(path, "")
    return open(path, "rb", buffering=1024 * 1024)  # noqa: PTH123  # closed by `Source.close`


def is_stream(file: BinaryIO) -> bool:
    """Whether the input can be read only once: a pipe or a terminal."""
    try:
        return not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, io.UnsupportedOperation):
        return True


class _Lines:
    """Lines of a file, with their numbers and where they begin."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.stream = file, is_stream(file)
        self.line, self.offset = 1, 0
        self.size = 0 if self.stream else os.fstat(file.fileno()).st_size

    def next(self) -> bytes | None:
        """The next line with its end, b"" at the end of the file; None for one that is longer than `MAX_LINE`."""
        text = self.file.readline(MAX_LINE + 1)
        self.offset += len(text)
        self.line += bool(text)
        if self.offset == len(text) and text.startswith((_BOM, *_BOMS_16)):
            if text.startswith(_BOMS_16):
                raise InvalidArgument("the input is UTF-16 text: save it as UTF-8")
            text = text[len(_BOM) :] or b"\n"
        if len(text) <= MAX_LINE:
            return text
        while not text.endswith(b"\n") and (text := self.file.readline(BLOCK_BYTES)):
            self.offset += len(text)
        return None

    def go_to(self, mark: Mark) -> None:
        """Skip to a mark beyond the current line."""
        if not self.stream:
            self.file.seek(mark.offset)
            self.line, self.offset = mark.line, mark.offset
        while self.line < mark.line and self.next() != b"":
            pass

    @property
    def mark(self) -> Mark:
        return Mark(self.line, self.offset)

    def share(self) -> float | None:
        return None if self.stream else min(1.0, self.offset / self.size) if self.size else 1.0


_LONG: Final = bad(f"the line is longer than {MAX_LINE} bytes", Code.TOO_LARGE)


_END: Final = object()
"""In place of a row: there are no more."""
_EMPTY: Final = object()
"""In place of a row: the line has none."""


def _read_block(lines: _Lines, size: int, next_row: Callable[[], Any]) -> Block:
    """The rows up to the end of the block of `size` lines that begins or goes on here, of at most about `BLOCK_BYTES`."""
    begin = lines.mark
    boundary = _boundary(begin.line, size)
    limit = begin.offset + BLOCK_BYTES
    numbers: list[int] = []
    rows: list[Any] = []
    last = False
    while lines.line < boundary and lines.offset < limit:
        number = lines.line
        row = next_row()
        if row is _END:
            last = True
            break
        if row is not _EMPTY:
            numbers.append(number)
            rows.append(row)
    return Block(begin, lines.mark, numbers, rows, last)


class JsonLines:
    """A JSON object of one row per line.

    Args:
        file: from `open_file`.
        mark: where to begin.
        size: lines of a block.
    """

    header = None

    def __init__(self, file: BinaryIO, mark: Mark, size: int) -> None:
        self._lines, self._size = _Lines(file), size
        self.blocks_loop = self._lines.stream
        if mark != Mark():
            self._lines.go_to(mark)

    def read(self) -> Block:
        """See `Source.read`."""
        return _read_block(self._lines, self._size, self._row)

    def _row(self) -> Any:
        text = self._lines.next()
        if text is None:
            return _LONG
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            if text == b"":
                return _END
            if not text.strip():
                return _EMPTY
            return bad(f"the line is not JSON: {error}: {quoted(text.strip())}")

    def share(self) -> float | None:
        """See `Source.share`."""
        return self._lines.share()

    def close(self) -> None:
        """See `Source.close`."""
        self._lines.file.close()


def _boundary(line: int, size: int) -> int:
    """The first line after the block that holds this line."""
    return (line - 1) // size * size + size + 1


class _BadText(Exception):
    """A line of CSV that is not text, or a row that is too long."""


class CsvLines:
    """Rows of CSV (RFC 4180), with a header; a row has the number of the line that it begins on.

    Args:
        file: from `open_file`.
        mark: where to begin; `Mark()` is the first row.
        size: lines of a block.
        delimiter: between cells.
    """

    def __init__(self, file: BinaryIO, mark: Mark, size: int, delimiter: str = ",") -> None:
        self._lines, self._size = _Lines(file), size
        self.blocks_loop = self._lines.stream
        self._begun = 0
        self._ended = False
        csv.field_size_limit(MAX_LINE)
        self._rows: Iterator[list[str]] = csv.reader(_Text(self), delimiter=delimiter, strict=True)
        self.convert: Callable[[list[str]], Any] = list
        """Turns cells into what `Block.rows` holds."""
        self.header = self._header()
        if mark.line > self._lines.line:
            self._lines.go_to(mark)

    def _header(self) -> list[str]:
        cells = self._row()
        while cells == []:
            cells = self._row()
        if cells is None:
            raise InvalidArgument("the CSV input is empty: its first line must name the columns")
        if isinstance(cells, Bad):
            raise InvalidArgument(f"the header of the CSV input cannot be read: {cells.message}")
        return [name.strip() for name in cells]

    def next_text(self) -> str:
        """The next line for the CSV reader."""
        text = self._lines.next()
        if text == b"":
            self._ended = True
            raise StopIteration
        if text is None or self._lines.offset - self._begun > MAX_LINE:
            raise _BadText(f"the row is longer than {MAX_LINE} bytes; is a quote missing?")
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise _BadText(f"the line is not UTF-8: {quoted(text.strip())}") from None

    def _row(self) -> list[str] | Bad | None:
        """The cells of the next row; None at the end."""
        self._begun = self._lines.offset
        try:
            return next(self._rows)
        except StopIteration:
            return None
        except _BadText as error:
            return bad(str(error))
        except csv.Error as error:
            return bad(f"the line is not CSV: {error}")

    def read(self) -> Block:
        """See `Source.read`."""
        return _read_block(self._lines, self._size, self._converted)

    def _converted(self) -> Any:
        cells = self._row()
        if cells is None:
            return _END
        if not cells:
            return _EMPTY
        return cells if isinstance(cells, Bad) else self.convert(cells)

    def share(self) -> float | None:
        """See `Source.share`."""
        return self._lines.share()

    def close(self) -> None:
        """See `Source.close`."""
        self._lines.file.close()


class _Text:
    """The lines that the CSV reader pulls; unlike a generator it goes on after an error."""

    def __init__(self, source: CsvLines) -> None:
        self._source = source

    def __iter__(self) -> _Text:
        return self

    def __next__(self) -> str:
        return self._source.next_text()


def open_source(path: str, kind: str, mark: Mark, size: int) -> Source:
    """The input, from a mark on.

    Args:
        path: of the file; `-` is standard input.
        kind: see `kind_of`.
        mark: a block's.
        size: lines of a block.

    Raises:
        NotFound, InvalidArgument, OSError: it cannot be read.
        Unsupported: the extra for its format is not installed.
    """
    if kind == "parquet":
        from penstock.batch.parquet import ParquetRows

        return ParquetRows(path, mark, size)
    file = open_file(path)
    try:
        return JsonLines(file, mark, size) if kind == "jsonl" else CsvLines(file, mark, size, _DELIMITERS[kind])
    except BaseException:
        file.close()
        raise
