from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import arrivals

RATES = st.floats(0.1, 10_000)
SEEDS = st.integers(0, 2**32)
PROCESS = st.sampled_from(arrivals.PROCESSES)


def first(times: Iterator[float], count: int) -> list[float]:
    return list(itertools.islice(times, count))


@given(PROCESS, RATES, SEEDS)
def test_times_never_decrease_and_stay_inside(process: str, rate: float, seed: int) -> None:
    times = list(itertools.islice(arrivals.schedule(process, rate, 5.0, seed), 500))
    assert times == sorted(times)
    assert all(0 <= time < 5.0 for time in times)


@given(PROCESS, RATES, SEEDS)
def test_the_same_seed_gives_the_same_times(process: str, rate: float, seed: int) -> None:
    runs = [list(itertools.islice(arrivals.schedule(process, rate, 5.0, seed), 100)) for _ in range(2)]
    assert runs[0] == runs[1]


@given(RATES)
def test_constant_keeps_its_rate_exactly(rate: float) -> None:
    times = first(arrivals.constant(rate), 1001)
    assert times[0] == 0
    assert times[1000] == pytest.approx(1000 / rate)


@settings(deadline=None)
@given(RATES, SEEDS)
def test_poisson_has_the_rate_and_the_spread_of_independent_callers(rate: float, seed: int) -> None:
    times = first(arrivals.poisson(rate, seed), 4000)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *times])]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean * rate == pytest.approx(1, abs=6 / math.sqrt(4000))  # six standard errors
    assert spread / mean == pytest.approx(1, abs=0.2)  # an exponential's spread is its mean


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 64), SEEDS)
def test_bursts_come_together_at_the_rate_of_requests(size: int, seed: int) -> None:
    times = first(arrivals.burst(1000.0, size, seed), 2000 * size)
    groups = [times[index : index + size] for index in range(0, len(times), size)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len(times) / times[-1] == pytest.approx(1000, rel=6 / math.sqrt(2000))


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 2000), st.floats(100, 2000), SEEDS)
def test_ramp_reaches_the_expected_count_at_every_quarter(start: float, end: float, seed: int) -> None:
    over = 10.0
    times = list(itertools.takewhile(lambda time: time < 2 * over, arrivals.ramp(start, end, over, seed)))
    for at in (2.5, 5.0, 7.5, 10.0):
        expected = start * at + (end - start) * at * at / (2 * over)
        assert sum(time < at for time in times) == pytest.approx(expected, abs=6 * math.sqrt(expected) + 6)
    after = sum(time >= over for time in times)
    assert after == pytest.approx(end * over, abs=6 * math.sqrt(end * over))


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    for process in arrivals.PROCESSES:
        with pytest.raises(ValueError, match=r"must be|positive"):
            arrivals.schedule(process, rate, 1.0)


def test_an_unknown_process_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="poisson"):
        arrivals.schedule("normal", 1.0, 1.0)
