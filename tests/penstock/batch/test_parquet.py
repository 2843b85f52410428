"""Parquet in and out: lists, nested lists, decimals, nulls; any block to begin with; a file that appears complete or not at all."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.batch.columns import Columns, read_map
from penstock.batch.inputs import open_input
from penstock.batch.parquet import write_parquet
from penstock.batch.records import Mark, bad
from penstock.batch.rendering import raw_error, raw_lines
from penstock.batch.request import Request
from penstock.batch.sources import open_source
from protocol.errors import Code, InvalidArgument
from protocol.model_config import ModelConfig
from protocol.tensors import from_array
from tests.penstock.batch.test_columns import config
from tests.penstock.batch.test_sources import blocks_of, rows_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def arranged(path: Path, made: ModelConfig, *maps: str) -> tuple[dict[int, Any], dict[int, str]]:
    """The rows' values by line, and what is wrong with others."""
    given = open_input(Request("m", str(path), "out", maps=maps), made, Mark(), 4)
    good: dict[int, Any] = {}
    wrong: dict[int, str] = {}
    for block in blocks_of(given.source):
        groups, refused = given.columns.arrange(block.lines, block.rows)
        wrong |= {line: why.message for line, why in refused}
        for group in groups:
            for number, line in enumerate(group.lines):
                good[line] = [tensor.array()[number].tolist() for tensor in group.tensors]
    return good, wrong


@pytest.mark.parametrize(
    ("column", "kind", "dims", "good", "bad_lines"),
    [
        (pa.array([[1.0, 2.0], [3.0, 4.0], [5.0]], pa.list_(pa.float64())), "FP32", [2], {1: [1, 2], 2: [3, 4]}, [3]),
        (
            pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int16(), 2)),
            "FP32",
            [2],
            {1: [1, 2], 2: [3, 4], 3: [5, 6]},
            [],
        ),
        (pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64())), "INT32", [2], {1: [1, 2]}, [2, 3]),
        (pa.array([[[1.0], [2.0]], [[3.0], [4.0]]]), "FP32", [2, 1], {1: [[1], [2]], 2: [[3], [4]]}, []),
        (pa.array([1, 2**40, -1]), "UINT32", [1], {1: [1]}, [2, 3]),
        (pa.array([1.5, float("nan"), 1e300]), "FP32", [1], {1: [1.5], 2: [float("nan")]}, [3]),
        (pa.array([1.0, 2.0]), "INT64", [1], {}, [1, 2]),
        (pa.array([decimal.Decimal("1.5"), None]), "FP64", [1], {}, [1, 2]),
        (pa.array(["a", None, ""]), "BYTES", [1], {1: [b"a"], 3: [b""]}, [2]),
        (pa.array([b"\xff", b"x"]), "BYTES", [1], {1: [b"\xff"], 2: [b"x"]}, []),
        (pa.array([["a", "b"], ["c"]]), "BYTES", [2], {1: [b"a", b"b"]}, [2]),
        (pa.array([True, False, None]), "BOOL", [1], {1: [True], 2: [False]}, [3]),
        (pa.array([{"a": 1}, None]), "INT64", [1], {}, [1, 2]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "BYTES", [1], {1: [b"a"], 2: [b"b"], 3: [b"a"]}, []),
        (pa.array([[], [1.0, 2.0]], pa.list_(pa.float32())), "FP32", [2], {2: [1, 2]}, [1]),
        (pa.array([[1, 2], [300, 4]], pa.list_(pa.int64())), "INT8", [2], {1: [1, 2]}, [2]),
        (pa.array([[1.0, 1e300], [3.0, 4.0]], pa.list_(pa.float64())), "FP32", [2], {2: [3, 4]}, [1]),
        (pa.array([[0.5, 1.0]], pa.list_(pa.float64())), "FP16", [2], {1: [0.5, 1]}, []),
        (pa.array([[0.5, 1.0]], pa.list_(pa.float64())), "INT32", [2], {}, [1]),
        (pa.array([[True, False]], pa.list_(pa.bool_())), "INT32", [2], {}, [1]),
    ],
)
def test_columns_of_every_kind(
    tmp_path: Path, column: Any, kind: str, dims: list[int], good: dict[int, Any], bad_lines: list[int]
) -> None:
    pq.write_table(pa.table({"X": column, "unused": column}), tmp_path / "x.parquet")
    found, wrong = arranged(tmp_path / "x.parquet", config(("X", kind, dims)))
    np.testing.assert_equal({line: values[0] for line, values in found.items()}, good)
    assert sorted(wrong) == bad_lines
    assert all("'X'" in why for why in wrong.values()), wrong


def test_blocks_are_the_same_wherever_reading_begins(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"A": list(range(50)), "B": [[n, n] for n in range(50)]}), path, row_group_size=7)
    whole = blocks_of(open_source(str(path), "parquet", Mark(), 4))
    rows = rows_of(whole)
    assert [(line, row["A"]) for line, row in rows] == [(n + 1, n) for n in range(50)]
    for number, block in enumerate(whole):
        again = blocks_of(open_source(str(path), "parquet", block.mark, 4))
        assert [each.lines for each in again] == [each.lines for each in whole[number:]]
        assert [row["A"] for _, row in rows_of(again)] == [row["A"] for _, row in rows_of(whole[number:])]


def test_an_empty_file_and_a_missing_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"A": pa.array([], pa.int64())}), tmp_path / "x.parquet")
    assert arranged(tmp_path / "x.parquet", config(("A", "INT64", [1]))) == ({}, {})
    with pytest.raises(InvalidArgument, match="the input has no column 'X', which input 'X' needs; it has 'A'"):
        arranged(tmp_path / "x.parquet", config(("X", "INT64", [1])))
    with pytest.raises(InvalidArgument, match="not a file; Parquet cannot be read from a stream"):
        open_source("-", "parquet", Mark(), 4)


def test_several_columns_fill_a_vector(tmp_path: Path) -> None:
    pq.write_table(pa.table({"p1": [1.0, 2.0], "p2": [3, 4], "id": ["a", "b"]}), tmp_path / "x.parquet")
    found, wrong = arranged(tmp_path / "x.parquet", config(("X", "FP32", [2])), "p*=X")
    assert (found, wrong) == ({1: [[1, 3]], 2: [[2, 4]]}, {})


def test_answers_of_every_kind(tmp_path: Path) -> None:
    outputs = [
        ("F", "FP32", [2], np.array([[1.5, np.inf], [np.nan, -1]], "f4")),
        ("H", "FP16", [1], np.array([[0.5], [2]], "f2")),
        ("N", "INT64", [2, 1], np.array([[[1], [2]], [[3], [4]]])),
        ("S", "BYTES", [1], np.array([[b"\xff"], [b"text"]], object)),
        ("B", "BOOL", [1], np.array([[True], [False]])),
        ("line", "UINT8", [1], np.array([[7], [8]], "u1")),
    ]
    made = ModelConfig.from_json(
        {
            "name": "m", "backend": "python", "max_batch_size": 8,
            "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}],
            "output": [
                {"name": name, "data_type": f"TYPE_{'STRING' if kind == 'BYTES' else kind}", "dims": dims}
                for name, kind, dims, _ in outputs
            ],
        }
    )  # fmt: skip
    rows = raw_lines([3, 5], [from_array(name, array) for name, _, _, array in outputs], True)
    (tmp_path / "rows").write_bytes(
        b"".join(row for row in rows if isinstance(row, bytes)) + raw_error(6, bad("no", Code.GONE))
    )
    write_parquet(tmp_path / "rows", tmp_path / "out.parquet", made)
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["line_"], row["error_code"], row["error_message"]) for row in found] == [
        (3, None, None), (5, None, None), (6, "GONE", "no"),
    ]  # fmt: skip
    assert found[0]["F"] == [1.5, float("inf")]
    assert found[1]["N"] == [[3], [4]]
    assert [row["S"] for row in found] == [[b"\xff"], [b"text"], None]
    assert [row["line"] for row in found] == [[7], [8], None]
    assert found[0]["H"] == [0.5]
    assert list(tmp_path.glob("*.writing")) == []


def test_columns_takes_arrays_of_one_shape_at_once() -> None:
    made = config(("X", "FP32", [2]))
    columns = Columns(made, read_map([], made))
    groups, wrong = columns.arrange([1, 2], [{"X": np.array([1, 2], "f4")}, {"X": np.array([3, 4], "f4")}])
    assert not wrong
    assert groups[0].tensors[0].array().tolist() == [[1, 2], [3, 4]]
