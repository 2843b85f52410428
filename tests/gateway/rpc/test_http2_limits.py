"""What a peer may send besides its calls: floods, and frames that are late."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.rpc.http2.floods import PERIOD, RESETS, UNHEEDED, FloodLimit
from gateway.rpc.http2.frames import ErrorCode, Fault
from gateway.rpc.http2.past import PastCalls


def code_of(call: Callable[[], None]) -> ErrorCode | None:
    try:
        call()
    except Fault as fault:
        return fault.code
    return None


@pytest.mark.parametrize(
    ("count", "most"), [(FloodLimit.count, UNHEEDED), (FloodLimit.count_reset, RESETS)], ids=["frames", "resets"]
)
def test_many_are_an_attack_only_within_a_period(count: Callable[[FloodLimit], None], most: int) -> None:
    now = 100.0
    floods = FloodLimit(lambda: now)
    for _ in range(most):
        count(floods)
    now += PERIOD
    count(floods)  # they came slowly, and counting begins again
    for _ in range(most):
        count(floods)

    assert code_of(lambda: count(floods)) is ErrorCode.ENHANCE_YOUR_CALM


def test_an_answered_call_pays_for_the_frames_before_it() -> None:
    floods = FloodLimit(lambda: 0.0)
    for _ in range(3):
        for _ in range(UNHEEDED):
            floods.count()
        floods.unheeded = 0


def test_a_frame_of_a_past_call_is_a_fault_unless_its_peer_may_not_know_the_end() -> None:
    past = PastCalls(most=2)
    past.last = 9
    past.answered_early(5)

    assert code_of(lambda: past.check_early(5)) is None
    assert code_of(lambda: past.check_early(7)) is ErrorCode.STREAM_CLOSED
    assert code_of(lambda: past.check_begun(7)) is None
    for stream in (0, 4, 11):
        assert code_of(lambda: past.check_begun(stream)) is ErrorCode.PROTOCOL_ERROR  # noqa: B023  # called at once
        assert code_of(lambda: past.check_early(stream)) is ErrorCode.PROTOCOL_ERROR  # noqa: B023


def test_only_so_many_calls_are_remembered_as_answered_early() -> None:
    past = PastCalls(most=2)
    past.last = 9
    for stream in (1, 3, 5):
        past.answered_early(stream)

    assert code_of(lambda: past.check_early(1)) is ErrorCode.STREAM_CLOSED
    assert code_of(lambda: past.check_early(3)) is None
