"""`Penstock-Timing`, the pure part: case by case, and for any stamps."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.timing import LONGEST, STAGES, timing_value
from penstock.client.timing import parse_timing, sentence
from protocol.messages import Timing

DAY = 86400.0
NOW = 1.8e9
RAN = (0.00025, 0.0005, 0.0005, 0.00075, 0.001, 0.002, 0.0025)
BATCH: dict[str, Any] = {"reason": "full", "batch_rows": 8, "batch_requests": 4, "worker": "w", "digest": "0ab1"}
BATCH_TEXT = 'rows=8, requests=4, attempt=1, reason=full, digest="0ab1"'


def stamps(*after: float | None, accepted: float = NOW, **batch: Any) -> Timing:
    """Stages at seconds after the acceptance; None did not happen."""
    return Timing(accepted, *[0.0 if each is None else NOW + each for each in after], **{**BATCH, **batch})


ALL = "publish=250, fetch=500, enqueue=500, release=750, compute_start=1000, compute_end=2000, emit=2500"
NEVER_RAN: dict[str, Any] = {"reason": "", "batch_rows": 0, "batch_requests": 0, "digest": ""}

CASES: list[tuple[str, Timing, float, str]] = [
    ("a plain call", stamps(*RAN), NOW + 0.003, f"{ALL}, wake=3000, {BATCH_TEXT}"),
    ("respond-async, read a day later: nobody waited", stamps(*RAN), 0.0, f"{ALL}, {BATCH_TEXT}"),
    (
        "a second delivery, after a worker was lost: fetched late, and true",
        stamps(0.00025, 30.0, 30.0, 30.1, 30.1, 30.2, 30.3, attempt=2),
        NOW + 30.4,
        "publish=250, fetch=30000000, enqueue=30000000, release=30100000, compute_start=30100000, compute_end=30200000, "
        "emit=30300000, wake=30400000, " + BATCH_TEXT.replace("attempt=1", "attempt=2"),
    ),
    (
        "from the response cache: it ran in no batch",
        stamps(0.00025, 0.0005, 0.0005, None, None, None, 0.001, reason="cache hit", batch_rows=0, batch_requests=0),
        NOW + 0.002,
        'publish=250, fetch=500, enqueue=500, emit=1000, wake=2000, attempt=1, reason=cache_hit, digest="0ab1"',
    ),
    (
        "refused by the worker before it ran",
        stamps(0.00025, 0.0005, 0.0005, None, None, None, 0.001, **NEVER_RAN),
        NOW + 0.002,
        "publish=250, fetch=500, enqueue=500, emit=1000, wake=2000, attempt=1",
    ),
    (
        "its batch failed before it ran",
        stamps(0.00025, 0.0005, 0.0005, 0.00075, None, None, 0.0025),
        NOW + 0.003,
        f"publish=250, fetch=500, enqueue=500, release=750, emit=2500, wake=3000, {BATCH_TEXT}",
    ),
    ("the gateway's own error", Timing(NOW), NOW + 0.5, "wake=500000"),
    ("a failure that lost its times", Timing(attempt=2, worker="w"), 0.0, ""),
    ("nothing is known", Timing(), 0.0, ""),
    (
        "the worker's clock is behind the gateway's: its stages before the publication are left out",
        stamps(0.002, 0.0005, 0.0005, 0.00075, 0.001, 0.0025, 0.003),
        NOW + 0.004,
        f"publish=2000, compute_end=2500, emit=3000, wake=4000, {BATCH_TEXT}",
    ),
    (
        "the worker's clock is ahead: its stages after the arrival are left out",
        stamps(0.001, 0.002, 0.002, 0.003, 60.0, 60.001, 60.002),
        NOW + 0.004,
        f"publish=1000, fetch=2000, enqueue=2000, release=3000, wake=4000, {BATCH_TEXT}",
    ),
    (
        "the worker's clock steps back by a second while the model runs",
        stamps(0.001, 2.0, 2.0, 2.1, 2.2, 1.3, 1.4),
        NOW + 2.4,
        f"publish=1000, fetch=2000000, enqueue=2000000, release=2100000, compute_start=2200000, wake=2400000, {BATCH_TEXT}",
    ),
    ("every clock is before the acceptance", stamps(*[-1.0] * 7), NOW - 1.0, BATCH_TEXT),
    (
        "a producer's clock was a year late: no wait of a year is told",
        stamps(*RAN, accepted=NOW - LONGEST - 1),
        0.0,
        BATCH_TEXT,
    ),
    ("a producer without a clock", stamps(*RAN, accepted=0.0), 0.0, BATCH_TEXT),
    (
        "a record of the batch lane",
        stamps(*RAN, reason="batch_lane", batch_rows=64, batch_requests=1),
        0.0,
        f'{ALL}, rows=64, requests=1, attempt=1, reason=batch_lane, digest="0ab1"',
    ),
]


CASES += [
    (
        "a record of the batch lane that ran in three batches",
        stamps(*RAN, reason="batch_lane", batch_rows=64, batch_requests=1, computed=0.00075),
        NOW + 0.003,
        f'{ALL}, wake=3000, compute=750, rows=64, requests=1, attempt=1, reason=batch_lane, digest="0ab1"',
    ),
    ("of batches without a gap", stamps(*RAN, computed=0.001), NOW + 0.003, f"{ALL}, wake=3000, {BATCH_TEXT}"),
    (
        "a longer run than there was time for",
        stamps(*RAN, computed=1.0),
        NOW + 0.003,
        f"{ALL}, wake=3000, {BATCH_TEXT}",
    ),
    (
        "several batches, the first of which began before the publication, by the worker's clock",
        stamps(0.0012, 0.0005, 0.0005, 0.00075, 0.001, 0.002, 0.0025, computed=0.0005),
        NOW + 0.003,
        f"publish=1200, compute_end=2000, emit=2500, wake=3000, {BATCH_TEXT}",
    ),
]


@pytest.mark.parametrize(("given", "woken", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_every_kind_of_answer(given: Timing, woken: float, expected: str) -> None:
    assert timing_value(given, woken).decode() == expected


@pytest.mark.parametrize("digest", ["", 'x"y', "a\r\nb", "é"])
def test_a_digest_that_is_none_is_left_out(digest: str) -> None:
    assert timing_value(stamps(*RAN, digest=digest), NOW + 0.003).endswith(b"reason=full")


@pytest.mark.parametrize("woken", [NOW + 1, 0.0])
def test_no_worker_writes_headers(woken: float) -> None:
    assert b"reason=other" in timing_value(stamps(*RAN, reason="evil\r\nset-cookie: a"), woken)


ODD = st.sampled_from([0.0, NOW, -1.0, math.nan, math.inf, -math.inf, 1e300])
STAMP = ODD | st.floats(NOW - 10, NOW + 10) | st.floats(NOW - 2 * DAY, NOW + 2 * DAY) | st.floats(0, 4e9)
NUMBERS = st.integers(-3, 300)


@given(
    st.lists(STAMP, min_size=9, max_size=9),
    st.booleans(),
    st.builds(
        dict,
        reason=st.sampled_from(["full", "", "cache hit"]),
        batch_rows=NUMBERS,
        batch_requests=NUMBERS,
        attempt=NUMBERS,
    ),
)
def test_for_any_stamps_no_stage_is_negative_or_invented_and_the_times_between_them_add_up(
    times: list[float], in_order: bool, batch: dict[str, Any]
) -> None:
    if in_order:
        times = [times[0], *sorted(times[1:])]
    accepted, *after = times
    text = timing_value(Timing(*times[:8], **batch), times[8]).decode()
    fields = dict(part.split("=", 1) for part in text.split(", ")) if text else {}
    told = {name: int(fields[name]) for name in STAGES if name in fields}

    assert "-" not in text
    assert list(told.values()) == sorted(told.values())
    given = dict(zip(STAGES, after, strict=True))
    assert all(given[name] > 0 for name in told)
    for name, value in told.items():
        assert value == pytest.approx((given[name] - accepted) * 1e6, abs=2)
    spans = [later - earlier for earlier, later in zip([0, *told.values()], told.values(), strict=False)]
    assert all(span >= 0 for span in spans)
    if "wake" in told:
        assert sum(spans) == told["wake"] == max(told.values())
    for field, name in (("batch_rows", "rows"), ("batch_requests", "requests"), ("attempt", "attempt")):
        assert int(fields.get(name, 1)) > 0
        assert name not in fields or int(fields[name]) == batch[field]


@given(st.lists(st.floats(0, 100), min_size=8, max_size=8))
def test_stages_in_order_are_all_told(after: list[float]) -> None:
    *stages, woken = sorted(after)
    text = timing_value(stamps(*stages), NOW + woken).decode()
    assert [part.partition("=")[0] for part in text.split(", ")[:8]] == list(STAGES)


def test_the_page_describes_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    section = page.partition("## Times of an answer")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == [
        *STAGES, "compute", "rows", "requests", "attempt", "reason", "digest",
    ]  # fmt: skip
    example = re.findall(r"penstock-timing: (.*)", section)[0]
    told = re.findall(r"^    (answered in .*)", section, re.MULTILINE)[0]
    assert sentence(parse_timing(example)) == told
