"""Models that do not batch, and the scheduler that a configuration gets."""

from __future__ import annotations

import pytest

from protocol.errors import Code
from protocol.model_config.batching import DynamicBatching
from tests.workers.batching.turns import at, item, play
from workers.batching import for_config
from workers.batching.dynamic import DynamicBatcher
from workers.batching.types import Reject
from workers.batching.unbatched import NoBatching


def test_each_request_runs_alone_in_the_order_of_arrival_whatever_its_priority() -> None:
    played = play(NoBatching(8), [at(0, "a", 2), at(0, "b", 3, priority=1), at(1, "c")])
    assert played.batches == [(0, "a", 2, "alone"), (0, "b", 3, "alone"), (1, "c", 1, "alone")]


def test_deadlines_hold_while_no_instance_is_idle() -> None:
    played = play(NoBatching(0), [at(0, "a"), at(0, "b", deadline=3), at(0, "c", deadline=7)], busy_until=5)
    assert played.expired == [(3, "b")]
    assert played.batches == [(5, "a", 1, "alone"), (5, "c", 1, "alone")]


def test_one_request_may_be_staged() -> None:
    scheduler: NoBatching[None] = NoBatching(0)
    assert scheduler.take(0, idle=False) is None
    scheduler.add(item("a"), 0)
    assert scheduler.take(0, idle=False) is not None
    assert scheduler.wake_at() is None


@pytest.mark.parametrize(("maximum", "rows"), [(0, 2), (1, 2), (8, 9)])
@pytest.mark.parametrize("dynamic", [None, DynamicBatching()])
def test_more_rows_than_the_model_takes_are_refused(maximum: int, rows: int, dynamic: DynamicBatching | None) -> None:
    rejection = for_config(maximum, dynamic).add(item("a", rows), 0)
    assert rejection is not None
    assert (rejection.reason, rejection.code) == (Reject.TOO_MANY_ROWS, Code.INVALID_ARGUMENT)
    assert rejection.message == f"inference request batch-size must be <= {max(1, maximum)}, got {rows}"


def test_the_configuration_chooses() -> None:
    assert type(for_config(8, DynamicBatching())) is DynamicBatcher
    assert type(for_config(8, None)) is NoBatching
    assert type(for_config(0, DynamicBatching())) is NoBatching
