"""Inputs as strangers write them: a line is a row or an error of its number; blocks are the same wherever reading begins."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batch import sources
from penstock.batch.records import Bad, Block, Mark
from penstock.batch.sources import MAX_LINE, CsvLines, JsonLines, Source, check_input, kind_of, open_source
from protocol.errors import InvalidArgument, NotFound


def blocks_of(source: Source) -> list[Block]:
    found = []
    while not found or not found[-1].last:
        found.append(source.read())
        assert len(found) < 10_000
    source.close()
    return found


def rows_of(blocks: list[Block]) -> list[tuple[int, Any]]:
    return [
        (line, row.message if isinstance(row, Bad) else row)
        for block in blocks
        for line, row in zip(block.lines, block.rows, strict=True)
    ]


def read(path: Path, data: bytes, kind: str, size: int = 100) -> list[tuple[int, Any]]:
    path.write_bytes(data)
    return rows_of(blocks_of(open_source(str(path), kind, Mark(), size)))


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"", []),
        (b"\n\n  \n", []),
        (b'{"X":1}', [(1, {"X": 1})]),
        (b'{"X":1}\r\n\r\n{"X":2}\r\n', [(1, {"X": 1}), (3, {"X": 2})]),
        (b'\xef\xbb\xbf{"X":1}\n', [(1, {"X": 1})]),
        (b"\xef\xbb\xbf", []),
        (b"[1]\n", [(1, [1])]),
    ],
)
def test_json_lines(tmp_path: Path, data: bytes, rows: list[tuple[int, Any]]) -> None:
    assert read(tmp_path / "x", data, "jsonl") == rows


@pytest.mark.parametrize(
    "line", [b"{", b'{"X": NaN}', b"\xff\xfe", b'{"X":1}{"X":2}', b'{"a":"\\ud800"}', b"nul\0", b"[" * 5000]
)
def test_a_line_that_is_not_json_is_an_error_of_its_line(tmp_path: Path, line: bytes) -> None:
    (first, wrong, last) = read(tmp_path / "x", b'{"X":1}\n' + line + b'\n{"X":3}\n', "jsonl")
    assert (first, last) == ((1, {"X": 1}), (3, {"X": 3}))
    assert wrong[0] == 2
    assert wrong[1].startswith("the line is not JSON: ")
    assert len(wrong[1]) < 600


@pytest.mark.parametrize(("kind", "head"), [("jsonl", b'{"X":1}\n'), ("csv", b"X\n")])
def test_a_line_of_100_mb_takes_no_100_mb(tmp_path: Path, kind: str, head: bytes) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(head)
        file.write(b'"')
        file.seek(100_000_000, os.SEEK_CUR)
        file.write(b'"\n' + (b"7" if kind == "csv" else b"{}"))
    tracemalloc.start()
    rows = rows_of(blocks_of(open_source(str(path), kind, Mark(), 10)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows[-1] == (3, ["7"] if kind == "csv" else {})
    assert "longer than" in rows[-2][1]
    assert rows[-2][0] == 2
    assert peak < 4 * MAX_LINE


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"A,B\n", []),
        (b"A,B\n1,2", [(2, ["1", "2"])]),
        (b"\xef\xbb\xbfA,B\r\n1,2\r\n\r\n3,4\r\n", [(2, ["1", "2"]), (4, ["3", "4"])]),
        (b'A,B\n"1\n\n1",2\n3,4\n', [(2, ["1\n\n1", "2"]), (5, ["3", "4"])]),
        (b'A,B\n"say ""no""",2\n', [(2, ['say "no"', "2"])]),
        (b"\n\nA,B\n1,2\n", [(4, ["1", "2"])]),
    ],
)
def test_csv(tmp_path: Path, data: bytes, rows: list[tuple[int, Any]]) -> None:
    assert read(tmp_path / "x", data, "csv") == rows


@pytest.mark.parametrize("cell", [b'"a"b', b"\xff", b'"never closed'])
def test_a_damaged_csv_row_is_an_error_of_its_line(tmp_path: Path, cell: bytes) -> None:
    rows = read(tmp_path / "x", b"A\n1\n" + cell + b"\n3\n", "csv")
    assert rows[0] == (2, ["1"])
    assert rows[1][0] == 3
    assert isinstance(rows[1][1], str)
    assert cell.startswith(b'"never') or rows[2] == (4, ["3"])


def test_lines_that_end_in_carriage_returns_alone_are_no_csv(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="the header of the CSV input cannot be read: the line is not CSV"):
        read(tmp_path / "x", b"A,B\r1,2\r", "csv")


@pytest.mark.parametrize("data", [b"", b"\n"])
def test_a_csv_input_without_a_header_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="is empty: its first line must name the columns"):
        read(tmp_path / "x", data, "csv")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(rows=st.lists(st.lists(texts, min_size=2, max_size=2), max_size=20), size=st.integers(1, 6))
def test_csv_is_what_the_csv_module_wrote(rows: list[list[str]], size: int) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["A", "B"], *rows])
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"penstock-csv-{os.getpid()}"
    try:
        path.write_bytes(out.getvalue().encode())
        found = rows_of(blocks_of(CsvLines(path.open("rb"), Mark(), size)))
    finally:
        path.unlink()
    # A lone carriage return is a line's end for the csv module, and not for a file's lines.
    if not any("\r" in cell for row in rows for cell in row):
        assert [row for _, row in found] == rows


lines = st.lists(st.sampled_from([b'{"X":1}', b"", b"broken", b'{"X":[' + b"1," * 50 + b"1]}"]), max_size=40)


@given(lines=lines, size=st.integers(1, 7), limit=st.integers(1, 300))
def test_blocks_are_the_same_wherever_reading_begins(lines: list[bytes], size: int, limit: int) -> None:
    before = sources.BLOCK_BYTES
    sources.BLOCK_BYTES = limit  # type: ignore[misc]
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"penstock-lines-{os.getpid()}"
    try:
        path.write_bytes(b"\n".join(lines))
        whole = blocks_of(JsonLines(path.open("rb"), Mark(), size))
        for number, block in enumerate(whole):
            assert blocks_of(JsonLines(path.open("rb"), block.mark, size)) == whole[number:]
    finally:
        path.unlink()
        sources.BLOCK_BYTES = before  # type: ignore[misc]
    assert all(block.after.line - block.mark.line <= size for block in whole)


def test_csv_goes_on_at_any_block(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("A,B\n" + "".join(f'"{n}\n",{n}\n' if n % 3 == 0 else f"{n},{n}\n" for n in range(50)))
    whole = blocks_of(open_source(str(path), "csv", Mark(), 4))
    for number, block in enumerate(whole):
        assert blocks_of(open_source(str(path), "csv", block.mark, 4)) == whole[number:]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_stream_is_read_once_and_skipped_to_a_mark(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    data = (
        b"".join(b"%d\n" % n for n in range(20))
        if kind == "jsonl"
        else b"A\n" + b"".join(b"%d\n" % n for n in range(20))
    )
    found = []
    for mark in (Mark(), Mark(9, 0)):
        writer = threading.Thread(target=path.write_bytes, args=(data,))
        writer.start()
        source = open_source(str(path), kind, mark, 4)
        assert source.blocks_loop
        found.append(rows_of(blocks_of(source)))
        writer.join()
    assert len(found[0]) == 20
    assert found[1] == [row for row in found[0] if row[0] >= 9]


def test_what_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is a folder; give one file"):
        check_input(str(tmp_path), "jsonl")
    with pytest.raises(NotFound, match="there is no input file"):
        check_input(str(tmp_path / "none.jsonl"), "jsonl")
    with pytest.raises(InvalidArgument, match="is not known by its name"):
        kind_of("rows.xlsx")
    with pytest.raises(NotFound, match="there is no input file"):
        check_input(str(tmp_path / "none.parquet"), "parquet")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InvalidArgument, match="is not a Parquet file"):
        check_input(str(tmp_path / "x.parquet"), "parquet")
    assert (kind_of("-"), kind_of("a.TSV"), kind_of("x", "csv")) == ("jsonl", "tsv", "csv")


def test_json_is_read_a_block_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    line = orjson.dumps({"X": [1.5] * 1000}) + b"\n"
    with path.open("wb") as file:
        for _ in range(1_500):
            file.write(line)
    source = open_source(str(path), "jsonl", Mark(), 256)
    tracemalloc.start()
    count = 0
    while not (block := source.read()).last:
        count += len(block.lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    source.close()
    assert count + len(block.lines) == 1_500
    assert peak < 32 * 1024 * 1024


@pytest.mark.parametrize(("kind", "text"), [("jsonl", '{"X": 1}\n'), ("csv", "X,Y\n1,2\n")])
def test_utf16_is_refused_as_a_whole(tmp_path: Path, kind: str, text: str) -> None:
    file = tmp_path / f"rows.{kind}"
    file.write_text(text, encoding="utf-16")

    with (
        pytest.raises(InvalidArgument, match="the input is UTF-16 text: save it as UTF-8"),
        contextlib.closing(open_source(str(file), kind, Mark(), 8)) as source,
    ):
        source.read()
