"""What the client makes of `Penstock-Timing`: numbers, and the sentence of `penstock infer`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.timing import STAGES, timing_value
from penstock.client.timing import Times, parse_timing, sentence
from protocol.messages import Timing
from workers.serving.spans import covered

BATCHED = (
    "publish=250, fetch=260, enqueue=260, release=5260, compute_start=5360, compute_end=7560, emit=8000, wake=8300, "
    'rows=4, requests=4, attempt=1, reason=full, digest="0ab1"'
)


def test_the_numbers_of_a_plain_call() -> None:
    times = parse_timing(BATCHED)
    assert times == Times(
        total=0.0083, queued=1e-5, waiting=0.0051, model=0.0022, way=pytest.approx(0.00099), delivered=True, rows=4, requests=4,
        attempt=1, reason="full", digest="0ab1",
    )  # fmt: skip


def test_the_stages_are_the_gateways() -> None:
    """Neither package imports the other."""
    from penstock.client import timing

    assert timing._STAGES == STAGES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BATCHED, "answered in 8.3 ms: 5.1 waiting for a batch of 4 rows, 2.2 in the model, 1.0 on the way"),
        (
            ("publish=20, fetch=30, enqueue=30, release=40, compute_start=45, compute_end=140, emit=170, wake=230, rows=1, "
            "requests=1, attempt=1, reason=alone"),
            "answered in 230 µs: 10 until a worker took it, 15 waiting for its turn, 95 in the model, 110 on the way",
        ),
        (
            ("publish=900, fetch=3200000, enqueue=3200000, release=3200100, compute_start=3200200, compute_end=3290000, "
            "emit=3290100, wake=3293000, rows=1, requests=1, attempt=2, reason=full"),
            "answered in 3.29 s: 3.20 until a worker took it, 0.09 in the model (attempt 2: an earlier one gave no answer)",
        ),
        (
            ("publish=1, fetch=1, enqueue=1, release=5001, compute_start=5001, compute_end=5501, emit=5501, wake=5901, rows=4, "
            "requests=1, attempt=1, reason=delay"),
            "answered in 5.9 ms: 5.0 waiting for others to share its batch, 0.5 in the model, 0.4 on the way",
        ),
        (
            "publish=250, fetch=500, enqueue=500, emit=1000, wake=2040, attempt=1, reason=cache_hit",
            "answered in 2.0 ms, from the response cache",
        ),
        (BATCHED.replace("wake=8300, ", ""), ("the answer was ready after 8.0 ms: 5.1 waiting for a batch of 4 rows, "
         "2.2 in the model, 0.7 on the way")),
        ("wake=500000", "answered in 500.0 ms"),
        ("publish=250, fetch=500, enqueue=500, wake=2000", "answered in 2.0 ms"),
        ('rows=4, requests=4, attempt=1, reason=full, digest="0ab1"', ""),
        ("", ""),
        ("publish=1", ""),
        ("wake=-5, emit=1e9, publish", ""),
        ("wake=" + "9" * 400, ""),
    ],
)  # fmt: skip
def test_the_sentence(text: str, expected: str) -> None:
    assert sentence(parse_timing(text)) == expected


@given(
    st.text()
    | st.lists(st.sampled_from([*STAGES, "rows", "attempt"])).map(lambda names: ", ".join(f"{n}=7" for n in names))
)
def test_any_text_gives_times_and_a_sentence(text: str) -> None:
    check(parse_timing(text))


@given(
    st.lists(st.integers(0, 20_000) | st.integers(0, 10**9), min_size=9, max_size=9),
    st.lists(st.booleans(), min_size=9, max_size=9),
    st.integers(0, 8),
)
def test_what_the_gateway_writes_is_told_and_adds_up(micro: list[int], happened: list[bool], rows: int) -> None:
    start = 1.8e9
    stamps = [start + at / 1e6 if there else 0.0 for at, there in zip(sorted(micro), happened, strict=True)]
    value = timing_value(Timing(*[start, *stamps[1:8]], "full", rows, rows), stamps[8]).decode()
    check(parse_timing(value))


def check(times: Times) -> None:
    parts = [part for part in (times.queued, times.waiting, times.model, times.way) if part is not None]
    assert all(part >= 0 for part in parts)
    if times.total is not None:
        assert sum(parts) == pytest.approx(times.total)
    told = sentence(times)
    assert bool(told) == (times.total is not None)
    numbers = [round(float(text) * 100) for text in re.findall(r"(?<!of )(?<!attempt )\b\d+(?:\.\d+)?\b", told)]
    assert all(number >= 0 for number in numbers)
    assert len(numbers) <= 1 or sum(numbers[1:]) == numbers[0], told


SEVERAL = BATCHED.replace("wake=8300, ", "wake=8300, compute=1200, ")


def test_the_time_between_several_batches_is_waiting() -> None:
    times = parse_timing(SEVERAL)
    assert (times.model, times.waiting, times.total) == (0.0012, 0.0061, 0.0083)
    assert times.way == parse_timing(BATCHED).way
    assert sentence(times).endswith("6.1 waiting for a batch of 4 rows, 1.2 in the model, 1.0 on the way")


@pytest.mark.parametrize("told", ["compute=2201", "compute=-1", "compute=x", "compute=" + "9" * 40])
def test_a_time_in_the_model_that_cannot_be_is_ignored(told: str) -> None:
    assert parse_timing(BATCHED.replace("rows=4", f"{told}, rows=4")) == parse_timing(BATCHED)


SPANS = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 500)), min_size=1, max_size=8)


@given(SPANS, st.booleans())
def test_the_time_in_the_model_is_that_of_its_batches(spans: list[tuple[int, int]], together: bool) -> None:
    """One after the other on one instance, or at the same time on several."""
    ends = [
        (0.001 + (begin + (0 if together else 6000 * number)) / 1e6, length / 1e6)
        for number, (begin, length) in enumerate(spans)
    ]
    runs = [(begin, begin + length) for begin, length in ends]
    first, last = min(begin for begin, _ in runs), max(end for _, end in runs)
    stamps = Timing(
        1e6, 1e6 + 0.0001, 1e6 + 0.0002, 1e6 + 0.0002, 1e6 + first, 1e6 + first, 1e6 + last, 1e6 + last + 0.001, "batch_lane", 8, 1,
        computed=covered((1e6 + begin, 1e6 + end) for begin, end in runs),
    )  # fmt: skip
    times = parse_timing(timing_value(stamps, 1e6 + last + 0.002).decode())

    assert times.model is not None
    assert times.waiting is not None
    if not together:
        assert times.model == pytest.approx(sum(end - begin for begin, end in runs), abs=5e-6)
    assert (
        max(end - begin for begin, end in runs) - 5e-6 <= times.model <= sum(end - begin for begin, end in runs) + 5e-6
    )
    idle = (last - first) - times.model
    assert times.waiting == pytest.approx(first - 0.0002 + idle, abs=5e-6)
    assert sum(part or 0.0 for part in (times.queued, times.waiting, times.model, times.way)) == pytest.approx(
        times.total
    )
