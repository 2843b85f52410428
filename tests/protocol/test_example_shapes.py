"""Shapes to try for a model whose sizes are free."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from protocol.example_shapes import MAX_ELEMENTS, candidates
from protocol.request_check import fits

SHAPES = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.one_of(st.just(-1), st.integers(0, 600)), max_size=5), min_size=1
)


@given(SHAPES, st.one_of(st.none(), st.integers(1, 8)))
def test_every_candidate_fits_comes_once_and_all_but_the_first_are_small(
    shapes: dict[str, list[int]], rows: int | None
) -> None:
    tried = list(candidates(shapes, rows))

    assert 1 <= len(tried) <= 32
    assert len({tuple(each.items()) for each in tried}) == len(tried)
    for each in tried:
        assert list(each) == list(shapes)
        assert all(fits(each[name], shape) for name, shape in shapes.items())
        assert all(each[name][0] == rows for name, shape in shapes.items() if rows is not None and shape[:1] == [-1])
    for each in tried[1:]:
        assert sum(map(math.prod, each.values())) <= MAX_ELEMENTS


@given(SHAPES)
def test_a_stated_shape_is_not_varied(shapes: dict[str, list[int]]) -> None:
    name = next(iter(shapes))

    assert {each[name] for each in candidates(shapes, 1, {name: (3, 7)})} == {(3, 7)}


def test_the_sizes_of_images_are_tried_with_fixed_and_with_free_channels() -> None:
    fixed = [each["x"] for each in candidates({"x": [-1, 3, -1, -1]})]
    free = [each["x"] for each in candidates({"x": [-1, -1, -1, -1]})][:7]

    assert fixed[:5] == [(1, 3, size, size) for size in (1, 8, 32, 224, 512)]
    assert {(1, 3, 32, 32), (1, 32, 32, 3), (1, 3, 224, 224)} <= set(free)


def test_the_first_axis_of_a_model_that_does_not_batch_may_be_a_batch() -> None:
    tried = list(candidates({"samples": [-1, -1], "state": [2, -1, 128], "rate": []}, None))

    assert {"samples": (1, 512), "state": (2, 1, 128), "rate": ()} in tried[:7]
    assert {"samples": (8, 8), "state": (2, 8, 128), "rate": ()} in tried


def test_where_nothing_is_free_there_is_one_candidate() -> None:
    assert list(candidates({"x": [-1, 4], "y": [-1, 2]}, 3)) == [{"x": (3, 4), "y": (3, 2)}]
