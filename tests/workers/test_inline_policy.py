import pytest

from workers.instances.inline_policy import BRIEF, DISTRUST, MAX_KINDS, SLOW, InlinePolicy


def test_what_was_fast_on_a_thread_is_tried_on_the_loop() -> None:
    inline_policy = InlinePolicy()
    assert not inline_policy.runs_inline("16", 4, 0.0)
    inline_policy.record("16", 4, BRIEF * 5, None, 0.0)
    assert not inline_policy.runs_inline("16", 4, 0.0)
    inline_policy.record("16", 4, BRIEF / 2, None, 0.0)
    inline_policy.record("16", 4, BRIEF * 5, None, 0.0)
    assert inline_policy.runs_inline("16", 4, 0.0)
    assert inline_policy.runs_inline("16", 3, 0.0)


def test_other_shapes_and_larger_batches_are_another_kind() -> None:
    inline_policy = InlinePolicy()
    inline_policy.record("16", 4, BRIEF / 2, None, 0.0)
    assert not inline_policy.runs_inline("16", 5, 0.0)
    assert not inline_policy.runs_inline("32", 4, 0.0)


@pytest.mark.parametrize("runs", [[SLOW * 2], [BRIEF * 1.5] * 3, [BRIEF / 2, BRIEF * 9, BRIEF * 9]])
def test_what_is_not_brief_on_the_loop_goes_back_to_the_thread_for_a_while(runs: list[float]) -> None:
    inline_policy = InlinePolicy()
    inline_policy.record("16", 1, BRIEF / 2, None, 0.0)
    for seconds in runs:
        inline_policy.record("16", 1, 9.9, seconds, 100.0)
    assert not inline_policy.runs_inline("16", 1, 100.0)
    inline_policy.record("16", 1, BRIEF / 2, None, 101.0)
    assert not inline_policy.runs_inline("16", 1, 101.0 + DISTRUST / 2)
    assert inline_policy.runs_inline("16", 1, 101.0 + DISTRUST)


def test_a_single_longer_run_is_forgiven() -> None:
    inline_policy = InlinePolicy()
    for seconds in (BRIEF / 10, BRIEF * 2, BRIEF / 10):
        inline_policy.record("16", 1, 9.9, seconds, 0.0)
        assert inline_policy.runs_inline("16", 1, 0.0)


def test_memory_is_bounded() -> None:
    inline_policy = InlinePolicy()
    for size in range(MAX_KINDS + 1):
        inline_policy.record(str(size), 1, BRIEF / 2, None, 0.0)
    assert not inline_policy.runs_inline("0", 1, 0.0)
    assert inline_policy.runs_inline("1", 1, 0.0)
