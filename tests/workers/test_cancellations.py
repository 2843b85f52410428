from workers.cancellations import MAX_AGE, MAX_REMEMBERED, SKEW, Cancellations


def test_a_record_published_before_is_covered_and_one_after_is_not() -> None:
    cancellations = Cancellations()
    assert not cancellations.covers("a", 1.0)
    cancellations.note("a", 10.0)
    assert cancellations.covers("a", 9.0)
    assert cancellations.covers("a", 10.0 + SKEW / 2)
    assert not cancellations.covers("a", 10.5)
    assert not cancellations.covers("b", 9.0)


def test_memory_is_bounded_by_number_and_age() -> None:
    cancellations = Cancellations()
    for number in range(MAX_REMEMBERED + 5):
        cancellations.note(str(number), 10.0)
    assert len(cancellations) == MAX_REMEMBERED
    assert not cancellations.covers("0", 1.0)
    cancellations.note("late", 10.0 + MAX_AGE + 1)
    assert len(cancellations) == 1


def test_a_repeated_cancellation_counts_from_the_last_time() -> None:
    cancellations = Cancellations()
    cancellations.note("a", 10.0)
    cancellations.note("b", 10.0)
    cancellations.note("a", 200.0)
    cancellations.note("c", 10.0 + MAX_AGE + 1)
    assert cancellations.covers("a", 5.0)
    assert not cancellations.covers("b", 5.0)
