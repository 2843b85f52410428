from __future__ import annotations

import pytest

from loadtest.warming import settled


@pytest.mark.parametrize(
    ("costs", "done"),
    [
        ([], False),
        ([3.0, 3.0], False),
        ([3.0, 2.0, 1.0], False),
        ([3.0, 2.0, 1.0, 0.8, 0.7], False),
        ([3.0, 2.0, 1.0, 0.8, 0.7, 0.71], False),
        ([3.0, 2.0, 1.0, 0.8, 0.7, 0.71, 0.69], True),
        ([3.0, 0.7, 0.9, 0.6], False),
    ],
)
def test_a_broker_is_warm_once_two_rounds_were_no_better(costs: list[float], done: bool) -> None:
    assert settled(costs) is done
