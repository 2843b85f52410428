"""I9 and I12 are broken in a made-up history, and found; what proves nothing is not counted."""

from __future__ import annotations

from penstock.verify.judge.rules_limits import KEY_BYTES, KEYS_BESIDE, ROOM, SURE, WARM
from penstock.verify.observe.history import History, MemorySample, OffsetSample
from penstock.verify.plan.plan import PAD
from tests.verify.histories import PLACE, START, broken, judged, seen

MB = 1_000_000
ENOUGH = int(2 * SURE * ROOM / PAD) + 1
"""Enough calls for one of two gateways to have seen enough bytes."""


def busy(history: History, calls: int = ENOUGH) -> None:
    """Add this many calls, sent within 20 s."""
    for number in range(calls):
        call = seen(1)
        call.sent = START + WARM + 20 * number / calls
        history.seen.append(call)


def weigh(history: History, *sizes: float) -> None:
    """A gateway's resident megabytes, one value per second; the last repeats forever."""
    for second in range(30):
        history.memory.append(
            MemorySample(START + second, "gateway-0", 7, int(sizes[min(second, len(sizes) - 1)] * MB))
        )


def test_a_process_that_keeps_what_it_has_answered_is_found() -> None:
    leaking = [60 + ROOM / MB * max(0.0, second - WARM) / 10 for second in range(30)]

    assert broken(busy, lambda history: weigh(history, *leaking)) == {"I9"}


def test_what_a_process_takes_at_its_start_is_no_leak() -> None:
    assert broken(busy, lambda history: weigh(history, 10, 40, 80, 120, 160)) == set()
    assert judged(busy, lambda history: weigh(history, 10, 160))["I9"].checked == 2


def test_what_a_worker_takes_once_to_read_what_has_piled_up_is_no_leak() -> None:
    once = [60.0 + (3 * ROOM / MB if second > 18 else 0) for second in range(30)]

    assert broken(busy, lambda history: weigh(history, *once)) == set()


def test_of_a_process_that_saw_too_little_nothing_is_said() -> None:
    leaking = [60.0 + 10 * second for second in range(30)]

    assert judged(lambda history: weigh(history, *leaking))["I9"].checked == 1


def test_a_store_that_keeps_the_bytes_of_requests_is_found() -> None:
    def change(history: History) -> None:
        history.store_bytes = KEYS_BESIDE + 9 * KEY_BYTES + 1

    assert broken(change) == {"I9"}


def test_a_log_that_begins_above_what_is_committed_is_found() -> None:
    def change(history: History) -> None:
        history.samples.insert(1, OffsetSample(START + 2, {PLACE: 3}, {PLACE: 9}, {PLACE: 4}))

    assert broken(change) == {"I12"}


def test_a_log_whose_head_was_deleted_before_anything_was_committed_is_found() -> None:
    def change(history: History) -> None:
        history.samples.insert(0, OffsetSample(START, {}, {PLACE: 9}, {PLACE: 1}))

    assert broken(change) == {"I12"}


def test_what_is_done_may_be_deleted() -> None:
    def change(history: History) -> None:
        history.samples.insert(1, OffsetSample(START + 2, {PLACE: 3}, {PLACE: 9}, {PLACE: 3}))

    assert broken(change) == set()
