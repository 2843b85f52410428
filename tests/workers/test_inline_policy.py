import pytest

from workers.instances.inline_policy import BACK_TO_THREAD, INLINE_BELOW, MAX_KINDS, TOO_SLOW, InlinePolicy


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
    "runs", [[TOO_SLOW * 2], [INLINE_BELOW * 1.5] * 3, [INLINE_BELOW / 2, INLINE_BELOW * 9, INLINE_BELOW * 9]]
)
def test_what_is_not_fast_on_the_loop_goes_back_to_the_thread_for_a_while(runs: list[float]) -> None:
    inline_policy = InlinePolicy()
    inline_policy.record("16", 1, INLINE_BELOW / 2, None, 0.0)
    for seconds in runs:
        inline_policy.record("16", 1, 9.9, seconds, 100.0)
    assert not inline_policy.runs_inline("16", 1, 100.0)
    inline_policy.record("16", 1, INLINE_BELOW / 2, None, 101.0)
    assert not inline_policy.runs_inline("16", 1, 101.0 + BACK_TO_THREAD / 2)
    assert inline_policy.runs_inline("16", 1, 101.0 + BACK_TO_THREAD)


def test_a_single_longer_run_is_forgiven() -> None:
    inline_policy = InlinePolicy()
    for seconds in (INLINE_BELOW / 10, INLINE_BELOW * 2, INLINE_BELOW / 10):
        inline_policy.record("16", 1, 9.9, seconds, 0.0)
        assert inline_policy.runs_inline("16", 1, 0.0)


def test_memory_is_bounded() -> None:
    inline_policy = InlinePolicy()
    for size in range(MAX_KINDS + 1):
        inline_policy.record(str(size), 1, INLINE_BELOW / 2, None, 0.0)
    assert not inline_policy.runs_inline("0", 1, 0.0)
    assert inline_policy.runs_inline("1", 1, 0.0)
