"""The script's pure modules, in the browser, against NumPy and by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gateway.timing import timing_value
from protocol import answer_times, bfloat16
from protocol.messages import Timing
from tests.integration.fleet import Process
from tests.page.browser import Browser, Page
from workers.batching.types import Release

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def tab(browser: Browser, server: Process) -> Iterator[Page]:
    """One page for all; the modules of these tests hold no state."""
    page = browser.open(server.url)
    page.wait_text("#connection", "Live")
    yield page
    page.close()


def module(tab: Page, name: str, expression: str, **values: Any) -> Any:
    """An expression with a module's exports and these values."""
    names = ", ".join(values)
    parts = ", ".join(json.dumps(value) for value in values.values())
    return tab.run(f"import('/page/{name}.js').then((it) => (({names}) => {expression})({parts}))")


def test_sixteen_bits_are_numpys(tab: Page) -> None:
    bits = np.arange(0x10000, dtype=np.uint16)
    finite = bits[np.isfinite(bits.view(np.float16))]
    read = module(tab, "tensors", "bits.map(it.fromHalf)", bits=finite.tolist())
    assert np.array_equal(np.array(read), finite.view(np.float16).astype(float))

    dice = np.random.default_rng(1)
    floats = np.concatenate([dice.normal(0, scale, 3000) for scale in (1e-8, 1e-5, 1, 1e3, 3e4)]).astype(np.float32)
    floats = floats[np.abs(floats) < 65504]
    written = module(tab, "tensors", "numbers.map(it.toHalf)", numbers=floats.tolist())
    assert np.array_equal(np.array(written, np.uint16), floats.astype(np.float16).view(np.uint16))

    packed = module(tab, "tensors", "[...it.packNumbers(numbers, 'BF16')]", numbers=floats[:2000].tolist())
    assert np.array_equal(np.array(packed, np.uint8).view(np.uint16), bfloat16.to_bits(floats[:2000]))


@pytest.mark.parametrize("dtype", ["BOOL", "UINT8", "UINT16", "UINT32", "INT8", "INT16", "INT32", "FP32", "FP64"])
def test_raw_bytes_are_numpys_and_come_back(tab: Page, dtype: str) -> None:
    from protocol.tensors import NUMPY_DTYPE

    kind = NUMPY_DTYPE[dtype]
    if dtype == "BOOL":
        values = np.array([True, False, True])
    elif dtype.startswith("FP"):
        values = np.array([0.1, -3e20, 1e-9], kind)
    else:
        values = np.array([np.iinfo(kind).min, 1, np.iinfo(kind).max], kind)
    numbers = values.astype(float).tolist()
    packed = module(tab, "tensors", f"[...it.packNumbers(numbers, '{dtype}')]", numbers=numbers)
    assert bytes(packed) == values.tobytes()
    back = module(tab, "tensors", f"it.unpack(new Uint8Array(bytes), '{dtype}', 10)", bytes=list(values.tobytes()))
    assert back == values.tolist()


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ([-1, 3, 224, 224], [3, 1, 2, 3, False]), ([3, 224, 224], [3, 0, 1, 2, False]), ([-1, 224, 224, 3], [3, 3, 1, 2, True]),
        ([1, -1, -1, 4], [4, 3, 1, 2, True]), ([-1, 1, 8, 8], [1, 1, 2, 3, False]), ([-1, 28, 28], [1, -1, 1, 2, True]),
        ([-1, 128], None), ([-1, -1], None), ([-1, -1, 384], None), ([4], None), ([], None), ([8, 3, 224, 224], None),
        ([-1, 2, 224, 224], None), ([-1, 3, 4, 4], None),
    ],
)  # fmt: skip
def test_an_image_fits_only_a_shape_of_one(tab: Page, shape: list[int], layout: list[Any] | None) -> None:
    found = module(tab, "image", "it.imageLayout(shape)", shape=shape)
    names = ("channels", "channelAt", "heightAt", "widthAt", "channelsLast")
    assert found == (layout and dict(zip(names, layout, strict=True)))


def test_every_reason_of_release_has_words(tab: Page) -> None:
    words = module(tab, "words", "it.RELEASES")
    assert set(words) == {release.value for release in Release}
    unknown = module(tab, "words", "reasons.map(it.released)", reasons=["new_reason", "constructor", "__proto__"])
    assert unknown == ["new reason", "constructor", "  proto  "]


def test_a_whole_timing_adds_up_to_the_round_trip(tab: Page) -> None:
    stamps = Timing(
        100.0, 100.001, 100.002, 100.0025, 100.01, 100.011, 100.031, 100.032, "delay", 5, 3, 2, "w", "abc123"
    )
    header = timing_value(stamps, 100.033).decode()
    told = module(tab, "words", "it.explain(it.parseTiming(header), 40)", header=header)
    assert [round(stage["ms"], 3) for stage in told["stages"]] == [1, 1, 0.5, 7.5, 1, 20, 1, 1, 7]
    assert told["batch"] == (
        "It ran together with 2 other requests, in a batch of 5 rows; the batch was released because its oldest request had waited "
        "max_queue_delay. It was attempt 2: a worker died with it before. The model's files had digest abc123."
    )


def test_the_time_between_the_batches_of_one_answer_is_not_the_models(tab: Page) -> None:
    header = "publish=1000, compute_start=2000, compute_end=9000, emit=9500, compute=3000, rows=8, requests=1"
    told = module(tab, "words", "it.explain(it.parseTiming(header), 10)", header=header)
    assert [(stage["words"], stage["ms"]) for stage in told["stages"][2:4]] == [
        ("It waited between its batches", 4), ("The model ran", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "stages"),
    [
        ("compute_start=5, compute_end=9, compute=7", 3),
        ("compute_start=5, compute_end=9, compute=x", 3),
        ("", 0),
        ("nonsense", 0),
        ("publish=-5, wake=100", 2),
        ("compute_end=99999999, wake=5", 1),
        ("wake=<b>, publish=10", 2),
    ],
)
def test_an_odd_timing_shows_nothing_absurd(tab: Page, header: str, stages: int) -> None:
    told = module(tab, "words", "it.explain(it.parseTiming(header), 40)", header=header)
    assert len(told["stages"]) == stages
    assert all(stage["ms"] >= 0 for stage in told["stages"])


def test_totals_that_go_back_make_no_negative_rate(tab: Page) -> None:
    counts = {
        "failed": 3,
        "cache_hits": 0,
        "batches": [{"rows": 2, "count": 50}],
        "queue_ns": 10**9,
        "compute_ns": 10**9,
    }
    polls = [
        {"now_ms": at * 2000, "models": [{"name": "m", "version": "1", "counts": {**counts, "success": success}}]}
        for at, success in enumerate((100, 120, 5, 15))
    ]
    script = "polls.map((poll) => { past.take(poll); return past.figures(poll.models[0]).rate; })"
    rates = module(tab, "history", f"((past) => {script})(new it.History())", polls=polls)
    assert rates == [None, 10, None, 5]


def test_quantiles_are_those_of_the_gateway(tab: Page) -> None:
    bounds = [bound * 1000 for bound in answer_times.BOUNDS]
    dice = np.random.default_rng(5)
    cases = [
        sorted({int(place): int(dice.integers(1, 99)) for place in dice.integers(0, 90, 7)}.items()) for _ in range(40)
    ]
    for share in (0.5, 0.99, 1.0):
        found = module(
            tab,
            "quantiles",
            "cases.map((counts) => it.quantile(counts, share, bounds))",
            cases=cases,
            share=share,
            bounds=bounds,
        )
        exact = [answer_times.quantile(counts, share) for counts in cases]
        assert found == pytest.approx([1000 * each for each in exact if each is not None])
    assert module(tab, "quantiles", "it.quantile([], 0.5, bounds)", bounds=bounds) is None
    assert module(tab, "quantiles", "it.quantile([[3, 5]], 0.5, [])") is None  # a gateway that tells no bounds
    assert module(tab, "quantiles", "it.between([[1, 5], [2, 7]], [[1, 5], [2, 9], [4, 1]])") == [[2, 2], [4, 1]]
    assert module(tab, "quantiles", "it.together([[[9, 1]], [[2, 4], [9, 2]]])") == [[2, 4], [9, 3]]


def test_latencies_are_of_the_last_minute_and_of_all_time_if_nothing_ran(tab: Page) -> None:
    counts = {"failed": 0, "cache_hits": 0, "batches": [], "queue_ns": 0, "compute_ns": 0}

    def poll(at: int, answers: list[list[int]]) -> dict[str, Any]:
        success = sum(count for _, count in answers)
        model = {"name": "m", "version": "1", "counts": {**counts, "success": success, "answers": answers}}
        return {"now_ms": at, "answer_bounds_ms": [1, 2, 4], "models": [model]}

    polls = [poll(0, [[1, 100]]), poll(2000, [[1, 100]]), poll(4000, [[1, 100], [2, 10]])]
    script = "polls.map((poll) => { past.take(poll); const f = past.figures(poll.models[0]); return [f.p50, f.p99, f.recent]; })"
    told = module(tab, "history", f"((past) => {script})(new it.History())", polls=polls)
    assert told == [[1.5, 1.99, False], [1.5, 1.99, False], [3, pytest.approx(3.98), True]]


def test_many_batch_sizes_become_few_bars(tab: Page) -> None:
    batches = [{"rows": rows, "count": rows} for rows in range(1, 33)]
    found = module(tab, "charts", "it.sizeClasses(batches)", batches=batches)
    assert [each["label"] for each in found] == [
        "1 row",
        "2 to 3 rows",
        "4 to 7 rows",
        "8 to 15 rows",
        "16 to 31 rows",
        "32 to 63 rows",
    ]
    assert sum(each["count"] for each in found) == sum(range(1, 33))
