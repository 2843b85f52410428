import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.instances.inline_policy import BACK_TO_THREAD, INLINE_BELOW, MAX_KINDS, RECENT, TOO_SLOW, InlinePolicy


def test_what_was_fast_on_a_thread_is_tried_on_the_loop() -> None:
    inline_policy = InlinePolicy()
    assert not inline_policy.runs_inline("16", 4, 0.0)
    inline_policy.record("16", 4, INLINE_BELOW * 5, None, 0.0)
    assert not inline_policy.runs_inline("16", 4, 0.0)
    inline_policy.record("16", 4, INLINE_BELOW / 2, None, 0.0)
    inline_policy.record("16", 4, INLINE_BELOW * 5, None, 0.0)
    assert inline_policy.runs_inline("16", 4, 0.0)
    assert inline_policy.runs_inline("16", 3, 0.0)


def test_other_shapes_and_larger_batches_are_another_kind() -> None:
    inline_policy = InlinePolicy()
    inline_policy.record("16", 4, INLINE_BELOW / 2, None, 0.0)
    assert not inline_policy.runs_inline("16", 5, 0.0)
    assert not inline_policy.runs_inline("32", 4, 0.0)


@pytest.mark.parametrize(
    "runs", [[TOO_SLOW * 1.1], [TOO_SLOW * 0.4] * 3, [INLINE_BELOW * 1.5] * RECENT, [0.0] * 7 + [TOO_SLOW * 1.1]]
)
def test_what_is_not_fast_on_the_loop_goes_back_to_the_thread_for_a_while(runs: list[float]) -> None:
    inline_policy = InlinePolicy()
    inline_policy.record("16", 1, INLINE_BELOW / 2, None, 0.0)
    for seconds in runs:
        assert inline_policy.runs_inline("16", 1, 100.0)
        inline_policy.record("16", 1, 9.9, seconds, 100.0)
    assert not inline_policy.runs_inline("16", 1, 100.0)
    inline_policy.record("16", 1, INLINE_BELOW / 2, None, 101.0)
    assert not inline_policy.runs_inline("16", 1, 101.0 + BACK_TO_THREAD / 2)
    assert inline_policy.runs_inline("16", 1, 101.0 + BACK_TO_THREAD)


def test_longer_runs_between_brief_ones_are_forgiven() -> None:
    inline_policy = InlinePolicy()
    inline_policy.record("16", 1, INLINE_BELOW / 2, None, 0.0)
    for seconds in (*[INLINE_BELOW * 7] * 5, INLINE_BELOW / 10) * 20:
        inline_policy.record("16", 1, 9.9, seconds, 0.0)
        assert inline_policy.runs_inline("16", 1, 0.0)


@given(
    st.lists(st.floats(0.0, INLINE_BELOW, exclude_max=True), max_size=2 * RECENT),
    st.lists(st.floats(INLINE_BELOW, 1.0), min_size=RECENT, max_size=RECENT),
)
def test_a_model_that_has_become_slow_leaves_the_loop_within_a_few_runs(brief: list[float], slow: list[float]) -> None:
    inline_policy = InlinePolicy()
    inline_policy.record("16", 1, 0.0, None, 0.0)
    for seconds in brief:
        inline_policy.record("16", 1, 9.9, seconds, 0.0)
        assert inline_policy.runs_inline("16", 1, 0.0)
    blocked = 0.0
    for seconds in slow:
        if inline_policy.runs_inline("16", 1, 0.0):
            assert blocked <= TOO_SLOW
            inline_policy.record("16", 1, 9.9, seconds, 0.0)
            blocked += seconds
    assert not inline_policy.runs_inline("16", 1, 0.0)


def test_memory_is_bounded() -> None:
    inline_policy = InlinePolicy()
    for size in range(MAX_KINDS + 1):
        inline_policy.record(str(size), 1, INLINE_BELOW / 2, None, 0.0)
    assert not inline_policy.runs_inline("0", 1, 0.0)
    assert inline_policy.runs_inline("1", 1, 0.0)
