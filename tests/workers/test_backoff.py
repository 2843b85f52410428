import random

from workers.system.backoff import FIRST, HEALTHY, LONGEST, Backoff


def test_pauses_double_up_to_a_bound() -> None:
    backoff = Backoff(random.Random(1))
    pauses = [backoff.after(0.0) for _ in range(12)]
    bound = FIRST
    for pause in pauses:
        assert bound / 2 <= pause <= bound
        bound = min(LONGEST, 2 * bound)


def test_a_long_life_starts_them_over() -> None:
    backoff = Backoff(random.Random(1))
    for _ in range(10):
        backoff.after(0.0)
    assert backoff.after(HEALTHY) <= FIRST
