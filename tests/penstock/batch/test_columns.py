"""What a row's columns mean: packed many at a time exactly as one by one, and every misfit is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batch.columns import Columns, TextColumns, expanded, read_map
from penstock.batch.packing import MAX_BYTES, MOST_BYTES, records_of, rows_of
from penstock.batch.records import Bad
from penstock.batch.rendering import json_lines
from penstock.client.values import array_of
from protocol.errors import CodecError, InvalidArgument
from protocol.model_config import ModelConfig
from protocol.tensors import ITEM_SIZE, Tensor


def config(*inputs: tuple[str, str, list[int]], optional: str = "", rows: int = 8) -> ModelConfig:
    return ModelConfig.from_json(
        {
            "name": "m", "backend": "python", "max_batch_size": rows,
            "input": [
                {"name": name, "data_type": f"TYPE_{'STRING' if kind == 'BYTES' else kind}", "dims": dims}
                | ({"optional": True} if name == optional else {})
                for name, kind, dims in inputs
            ],
            "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [1]}],
        }
    )  # fmt: skip


def columns(made: ModelConfig, *maps: str) -> Columns:
    return Columns(made, read_map(maps, made))


scalars = st.one_of(
    st.integers(-300, 300),
    st.floats(width=32),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.integers(2**31, 2**65),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=8)


@given(
    rows=st.lists(values, min_size=1, max_size=6),
    kind=st.sampled_from(sorted(ITEM_SIZE)),
    dims=st.sampled_from([[1], [2], [2, 2], [-1], [1, 1], [3]]),
)
def test_rows_are_packed_together_as_one_by_one(rows: list[Any], kind: str, dims: list[int]) -> None:
    made = columns(config(("X", kind, dims)))
    together, wrong = made.arrange(list(range(1, len(rows) + 1)), [{"X": row} for row in rows])
    alone: dict[int, tuple[Any, bytes] | None] = {}
    for line, row in enumerate(rows, 1):
        groups, refused = made.arrange([line], [{"X": row}])
        assert bool(groups) != bool(refused)
        alone[line] = (groups[0].tensors[0].shape, bytes(groups[0].tensors[0].data)) if groups else None
    packed: dict[int, Any] = {line: None for line, _ in wrong}
    for group in together:
        records, large = records_of("j", [group], 4)
        assert not large
        for record in records:
            for each in rows_of("j", record):
                packed[each.lines[0]] = each.tensors[0].shape, bytes(each.tensors[0].data)
    assert packed == alone


@given(row=values, kind=st.sampled_from(sorted(ITEM_SIZE)))
def test_a_row_is_what_the_client_takes(row: Any, kind: str) -> None:
    groups, wrong = columns(config(("X", kind, [2]))).arrange([1], [{"X": row}])
    try:
        array = array_of("X", kind, row)
    except CodecError:
        assert wrong
        return
    assert bool(groups) == (array.shape == (2,))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"Y": 1}, "column 'X' is missing; input 'X' needs FP32[2]; the line has 'Y'"),
        ({}, "the line has no columns"),
        ({"X": [1, 2, 3]}, "column 'X' holds [1, 2, 3], and input 'X' needs FP32[2]: its shape is [3]"),
        (
            {"X": ["a", 1]},
            """column 'X' holds ["a", 1], and input 'X' needs FP32[2]: 'data' must hold only values of""",
        ),
        ({"X": [1e39, 1]}, "has a value outside the range of FP32"),
        ({"X": [[1], [2, 3]]}, "has lists of different lengths"),
        ("text", "a line is an object of one row, such as {\"X\":[0,0]}, not 'text'"),
        ([1], "a line is an object of one row"),
        (None, "a line is an object of one row"),
    ],
)
def test_a_misfit_is_named(row: Any, says: str) -> None:
    groups, wrong = columns(config(("X", "FP32", [2]))).arrange([7, 8], [{"X": [1, 2]}, row])
    assert [group.lines for group in groups] == [[7]]
    ((line, why),) = wrong
    assert line == 8
    assert says in why.message


def test_several_inputs_an_optional_one_and_free_sizes() -> None:
    made = columns(config(("A", "INT64", [-1]), ("B", "BYTES", [1]), optional="B"))
    rows = [{"A": [1]}, {"A": [1, 2], "B": "x"}, {"A": [3]}, {"A": [4, 5], "B": ["yy"]}, {"A": [1], "B": 7}]
    groups, wrong = made.arrange([1, 2, 3, 4, 5], rows)
    assert [(group.lines, [(t.name, t.shape) for t in group.tensors]) for group in groups] == [
        ([1, 3], [("A", (2, 1))]),
        ([2, 4], [("A", (2, 2)), ("B", (2, 1))]),
    ]
    assert [line for line, _ in wrong] == [5]
    assert groups[1].tensors[1].array().tolist() == [[b"x"], [b"yy"]]


def test_a_model_without_batches_gets_a_record_per_row() -> None:
    made = columns(config(("X", "FP32", [2]), rows=0))
    groups, _ = made.arrange([1, 2], [{"X": [1, 2]}, {"X": [3, 4]}])
    records, _ = records_of("j", groups, 256)
    assert [(record.id, record.tensors[0].shape) for record in records] == [("j-1", (2,)), ("j-2", (2,))]


def test_columns_fill_a_vector() -> None:
    made = config(("X", "FP32", [3]), ("N", "INT32", [1]))
    header = ["p1", "n", "p2", "p3", "note"]
    text = TextColumns(header, made, read_map(["p*=X", "n=N"], made))
    assert text.unused == ["note"]
    groups, wrong = Columns(made, text.mapped).arrange([2], [text.values(["1", "7", "2", "3e0", "hello"])])
    assert not wrong
    assert [tensor.array().tolist() for tensor in groups[0].tensors] == [[[1, 2, 3]], [[7]]]
    for cells, says in [
        (["1", "7.0", "2", "3", ""], "column 'n' holds '7.0', and input 'N' needs INT32[1]"),
        (["1", "7", "1_0", "3", ""], "column 'p2' holds '1_0', and input 'X' needs FP32[3]"),
        (["1", "7", "", "3", ""], "column 'p2' holds ''"),
        (["1"], "the line has 1 cells, and the header names 5 columns"),
    ]:
        found = text.values(cells)
        assert isinstance(found, Bad)
        assert says in found.message
    assert expanded(("p?",), ["p?", "p1"]) == ("p?",)
    with pytest.raises(InvalidArgument, match="2 columns named 'A'"):
        TextColumns(["A", "A"], config(("A", "FP32", [1])), {"A": ("A",)})
    with pytest.raises(InvalidArgument, match="gives input 'X' 2 columns"):
        Columns(config(("X", "FP32", [3])), {"X": ("a", "b")})


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=30), most=st.integers(1, 8))
def test_records_hold_all_rows_once(sizes: list[int], most: int) -> None:
    made = columns(config(("X", "BYTES", [1])))
    groups, _ = made.arrange(list(range(1, len(sizes) + 1)), [{"X": "x" * size} for size in sizes])
    records, large = records_of("j", groups, most)
    assert not large
    assert [line for record in records for line in record.lines] == list(range(1, len(sizes) + 1))
    for record in records:
        assert len(record.lines) <= most
        texts = record.tensors[0].array().reshape(-1).tolist()
        assert texts == [b"x" * sizes[line - 1] for line in record.lines]


def test_a_record_is_bounded_in_bytes() -> None:
    made = columns(config(("X", "BYTES", [1])))
    sizes = [MAX_BYTES // 2 - 4, MAX_BYTES // 2 - 4, 10, MAX_BYTES + 10, 5, MOST_BYTES + 1]
    groups, _ = made.arrange([1, 2, 3, 4, 5, 6], [{"X": "x" * size} for size in sizes])
    records, large = records_of("j", groups, 256)
    assert [list(record.lines) for record in records] == [[1, 2], [3], [4], [5]]
    ((line, why),) = large
    assert (line, why.code.value) == (6, "TOO_LARGE")


@given(
    kind=st.sampled_from(["FP32", "FP64", "FP16", "BF16", "INT64", "UINT8", "BOOL"]),
    shape=st.sampled_from([(1,), (3,), (2, 1), (2, 3), (2, 2, 2), (2, 0)]),
    seed=st.integers(0, 1000),
)
def test_lines_of_output_are_the_arrays(kind: str, shape: tuple[int, ...], seed: int) -> None:
    import orjson

    from penstock.batch.rendering import readable

    count = int(np.prod(shape)) * max(ITEM_SIZE[kind], 1)
    data = np.random.default_rng(seed).integers(0, 2 if kind == "BOOL" else 120, count).astype("u1").tobytes()
    tensor = Tensor("Y", kind, shape, data)
    lines = json_lines(range(1, shape[0] + 1), [tensor, Tensor('"Z', kind, shape, data)], True)
    for number, line in enumerate(lines):
        assert isinstance(line, bytes)
        entry = orjson.loads(line)
        wanted = readable(tensor)[number]
        assert entry["line"] == number + 1
        assert set(entry["outputs"]) == {"Y", '"Z'}
        np.testing.assert_allclose(np.array(entry["outputs"]["Y"], wanted.dtype).reshape(wanted.shape), wanted)
