"""The values of made-up inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protocol import bfloat16, random_values
from protocol.tensors import ITEM_SIZE, NUMPY_DTYPE, check_size, from_array

DATATYPES = [*ITEM_SIZE, "BYTES"]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 300)])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_they_are_of_the_datatype_and_the_shape(datatype: str, shape: tuple[int, ...]) -> None:
    made = random_values.random_values(datatype, shape, np.random.default_rng(0))

    assert (made.shape, made.dtype) == (shape, NUMPY_DTYPE[datatype])
    check_size(from_array("x", made, datatype))
    again = random_values.random_values(datatype, shape, np.random.default_rng(0))
    assert np.array_equal(made, again)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_they_are_within_the_documented_range(datatype: str) -> None:
    made = random_values.random_values(datatype, (10_000,), np.random.default_rng(1))

    if datatype == "BYTES":
        assert {text.partition(b" ")[0] for text in made} == {b"text"}
        assert {int(text.partition(b" ")[2]) for text in made} <= {*range(1000)}
    elif datatype == "BF16" or NUMPY_DTYPE[datatype].kind == "f":
        floats = bfloat16.to_floats(made) if datatype == "BF16" else made.astype(np.float64)
        assert 0 <= floats.min() < 0.01
        assert 0.99 < floats.max() <= 1
        assert abs(floats.mean() - 0.5) < 0.02
    else:
        assert {*made.tolist()} == {0, 1}


def test_the_page_has_the_same_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "loading.md").read_text()
    assert random_values.__doc__ is not None
    table = [line for line in random_values.__doc__.splitlines() if line.startswith("|")]
    assert len(table) == 6
    assert "\n".join(table) in page
