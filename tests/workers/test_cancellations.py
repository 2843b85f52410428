from hypothesis import given
from hypothesis import strategies as st

from protocol.ports import Cancel
from workers.intake.cancellations import MAX_AGE, MAX_REMEMBERED, Cancellations

names = st.sampled_from("abc")
stamps = st.integers(0, 9).map(float)


@given(steps=st.lists(st.tuples(st.booleans(), names, stamps)))
def test_a_run_is_covered_by_whatever_was_told_of_its_request_and_means_it(
    steps: list[tuple[bool, str, float]],
) -> None:
    cancellations, told = Cancellations(), []
    for now, (notes, name, stamp) in enumerate(steps):
        if notes:
            told.append(Cancel(name, stamp))
            cancellations.note(told[-1], float(now))
        else:
            meant = any(cancel.ref == name and cancel.until >= stamp for cancel in told)
            assert cancellations.covers(name, stamp) == meant


def test_when_a_cancellation_came_does_not_matter() -> None:
    cancellations = Cancellations()
    cancellations.note(Cancel("a", 10.0), 200.0)
    assert cancellations.covers("a", 10.0)
    assert not cancellations.covers("a", 10.000001)


def test_memory_is_bounded_by_number_and_age() -> None:
    cancellations = Cancellations()
    for number in range(MAX_REMEMBERED + 5):
        cancellations.note(Cancel(str(number), 10.0), 10.0)
    assert len(cancellations) == MAX_REMEMBERED
    assert not cancellations.covers("0", 1.0)
    cancellations.note(Cancel("late", 10.0), 10.0 + MAX_AGE + 1)
    assert len(cancellations) == 1


def test_a_repeated_cancellation_is_kept_from_the_last_time() -> None:
    cancellations = Cancellations()
    cancellations.note(Cancel("a", 10.0), 10.0)
    cancellations.note(Cancel("b", 10.0), 10.0)
    cancellations.note(Cancel("a", 5.0), 200.0)
    cancellations.note(Cancel("c", 10.0), 10.0 + MAX_AGE + 1)
    assert cancellations.covers("a", 10.0)
    assert not cancellations.covers("b", 10.0)
