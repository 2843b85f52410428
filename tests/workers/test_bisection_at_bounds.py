"""Parts of exactly the maximum size, and batches that fail in one way and then in another."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.test_bisection import Request
from workers.failures.bisection import Bisection, Cause
from workers.failures.limits import into_parts


@pytest.mark.parametrize(("cap", "sizes"), [(1, [1] * 6), (2, [2] * 3), (3, [3, 3]), (4, [4, 2]), (6, [6]), (7, [6])])
def test_a_part_is_filled_to_its_cap(cap: int, sizes: list[int]) -> None:
    assert [len(part) for part in into_parts([Request(n) for n in range(6)], cap)] == sizes


@given(st.integers(1, 40), st.integers(1, 60), st.randoms(use_true_random=False))
def test_nobody_is_lost_whatever_the_failures_are_one_after_the_other(
    count: int, runs: int, draw: random.Random
) -> None:
    """A batch that raises, whose first half then has no room, whose quarter then dies, and so on."""
    requests = [Request(n) for n in range(count)]
    bisection: Bisection[Request] = Bisection()
    ended = [culprit.item for culprit in bisection.run_failed(requests, draw.choice(list(Cause)))]
    while (part := bisection.next_part()) is not None:
        runs -= 1
        if runs > 0 and draw.randrange(3):
            ended += [culprit.item for culprit in bisection.run_failed(part, draw.choice(list(Cause)))]
        else:
            ended += part
            bisection.part_succeeded()
    assert sorted(request.number for request in ended) == list(range(count))
