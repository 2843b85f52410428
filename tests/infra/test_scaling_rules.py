"""The client that stands for KEDA in tests/kubernetes scales as KEDA and the horizontal pod autoscaler do."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kubernetes.scaling_client import Rules

RULES = Rules(least=0, most=4, cooldown=5.0, first_cooldown=10.0)


@pytest.mark.parametrize(
    ("current", "active", "per_replica", "calm", "worked", "expected"),
    [
        (0, True, 0.0, 0.0, True, 1),  # the push alone brings the first
        (0, False, 9.0, 99.0, True, 0),
        (1, True, 2.1, 0.0, True, 3),
        (1, True, 9.0, 0.0, True, 4),
        (3, True, 0.0, 0.0, True, 1),  # the autoscaler never sets 0
        (3, False, 3.0, 4.9, True, 3),
        (3, False, 3.0, 5.0, True, 0),
        (1, False, 0.0, 9.9, False, 1),  # the first worker has time to announce its models
        (1, False, 0.0, 10.0, False, 0),
    ],
)
def test_the_rules(current: int, active: bool, per_replica: float, calm: float, worked: bool, expected: int) -> None:
    assert RULES.replicas(current, active, per_replica, calm, worked) == expected


@given(
    st.integers(0, 9), st.booleans(), st.floats(0, 100), st.floats(0, 100), st.booleans(), st.integers(0, 3), st.integers(3, 9)
)  # fmt: skip
def test_replicas_stay_within_their_bounds(
    current: int, active: bool, per_replica: float, calm: float, worked: bool, least: int, most: int
) -> None:
    rules = dataclasses.replace(RULES, least=least, most=most)

    assert least <= rules.replicas(current, active, per_replica, calm, worked) <= most or not (current or active)
