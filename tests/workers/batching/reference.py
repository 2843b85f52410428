"""The queue as a list that is sorted and searched anew for every question, and the items to fill it with."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from protocol.model_config.batching import DynamicBatching, QueuePolicy, TimeoutAction
from workers.batching.types import Item

MAXIMUM = 10

preferences = st.sampled_from([(), (6,), (4, 8), (3, MAXIMUM)])
policies = st.builds(
    QueuePolicy,
    st.sampled_from(TimeoutAction),
    st.sampled_from([0.0, 2.0, 5.0]),
    st.booleans(),
    st.sampled_from([0, 0, 3]),
)
plain = st.builds(
    DynamicBatching,
    preferences,
    st.sampled_from([0.0, 3.0, 8.0, 8.0]),
    st.booleans(),
)
rich = st.builds(
    DynamicBatching,
    preferences,
    st.sampled_from([0.0, 3.0, 8.0, 8.0]),
    st.just(False),
    st.sampled_from([2, 0]),
    st.just(2),
    policies,
    st.dictionaries(st.integers(1, 2), policies, max_size=2),
)

ROWS = (1, 2, 1, 2, 3, 5, MAXIMUM, MAXIMUM + 1)
SHAPES = "aaab"
TIMES = (0, 0, 0, 1, 3, 4, 9)
"""Seconds of patience (deadline), queue timeout and age (since published); 0 for none."""

arrivals = st.integers(0, len(ROWS) * len(SHAPES) * 4 * len(TIMES) ** 3 - 1)
"""One number per request, read digit by digit: drawing is what takes the time."""


def arriving(code: int, ref: str, now: float, shapes: str) -> Item[int]:
    digits = []
    for base in (len(ROWS), len(SHAPES), 4, *[len(TIMES)] * 3):
        code, digit = divmod(code, base)
        digits.append(digit)
    rows, shape = ROWS[digits[0]], SHAPES[digits[1]]
    patience, timeout, age = (TIMES[digit] for digit in digits[3:])
    item = Item(ref, rows, shape if shape in shapes else "a", int(ref), now, priority=digits[2], nbytes=10 * rows)
    item.published = now - age if age else 0.0
    item.deadline = now + patience if patience else None
    item.timeout = float(timeout) if timeout else None
    return item


class Reference:
    """The queue as a list that is sorted and searched anew for every question."""

    def __init__(self, policy: DynamicBatching) -> None:
        self.policy = policy
        self.items: list[Item[int]] = []
        self.settled = -math.inf

    def level(self, item: Item[int]) -> int:
        levels = self.policy.priority_levels
        if not levels:
            return 0
        return item.priority if 1 <= item.priority <= levels else self.policy.default_priority_level

    def policy_of(self, item: Item[int]) -> QueuePolicy:
        level = self.level(item)
        return self.policy.queue_policy(level) if level else self.policy.default_queue_policy

    def timeout_at(self, item: Item[int]) -> float:
        policy = self.policy_of(item)
        choices = [policy.default_timeout, item.timeout or 0.0 if policy.allow_timeout_override else 0.0]
        return item.enqueued + min((choice for choice in choices if choice), default=math.inf)

    def delays(self, item: Item[int]) -> bool:
        return self.policy_of(item).timeout_action == TimeoutAction.DELAY

    def gone_at(self, item: Item[int]) -> float:
        timeout = math.inf if self.delays(item) else self.timeout_at(item)
        return min(timeout, math.inf if item.deadline is None else item.deadline)

    def order(self) -> list[Item[int]]:
        def place(item: Item[int]) -> tuple[Any, ...]:
            if self.timeout_at(item) <= self.settled:
                return self.level(item), True, self.timeout_at(item), item.ref
            return self.level(item), False, item.payload, ""

        return sorted((item for item in self.items if self.gone_at(item) > self.settled), key=place)

    def remove(self, gone: list[Item[int]]) -> None:
        for item in gone:
            self.items.remove(item)
