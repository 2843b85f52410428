"""docs/tuning.md: every exported metric and every reason has its row, and the example runs as written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.settings import GatewaySettings
from tests.pages import ROOT, Place
from tests.penstock.exported_metrics import names
from tests.producers.examples import examples
from workers.backends import onnxruntime, torch
from workers.batching.types import Reject, Release
from workers.repository.completion import DEFAULT_MAX_BATCH_SIZE
from workers.settings import WorkerSettings

PAGE = ROOT / "docs" / "tuning.md"
TEXT = PAGE.read_text()
BLOCKS = {name: block.text for name, block in examples(PAGE).items()}
METRICS = TEXT[TEXT.index("## What each metric says") :]
DELAY = "dynamic_batching { max_queue_delay_microseconds: 5000 }"


def described() -> list[str]:
    """The names in the first column of the metrics' tables."""
    cells = re.findall(r"^\| (`(?:nv|penstock)_[^|]+) \|", METRICS, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)]


def test_every_exported_metric_is_described_once_and_nothing_else_is() -> None:
    listed = described()

    assert len(listed) == len(set(listed))
    assert set(listed) == names()


def test_every_metric_that_the_text_names_is_exported() -> None:
    named = set(re.findall(r"`((?:nv|penstock)_[a-z_]+[a-z])[`{]", TEXT[: TEXT.index("## What each metric says")]))
    known = names() | {f"{name}_{part}" for name in names() for part in ("sum", "count", "bucket")}

    assert named
    assert named - known == set()


def test_every_reason_is_described() -> None:
    section = TEXT[TEXT.index("## Why a batch was released") : TEXT.index("## What each metric says")]
    (rejections,) = re.findall(r"^\| `penstock_worker_rejections_total` \| (.+?) \|", METRICS, re.MULTILINE)

    assert set(re.findall(r"^\| `([a-z_]+)` \| [a-z]", section, re.MULTILINE)) - {"reason"} == {
        str(each) for each in Release
    }
    assert set(re.findall(r"`([a-z_]+)`", rejections)) - {"reason"} == {str(each) for each in Reject}


def test_the_defaults_are_the_codes() -> None:
    gateway, worker = GatewaySettings(), WorkerSettings()

    assert f"`--batch-lane-max-ms` ({worker.batch_lane_max_ms:.0f})" in TEXT
    assert f"`--batch-lane-share` ({worker.batch_lane_share * 100:.0f} %)" in TEXT
    assert f"from {gateway.fill_limit} asynchronous calls are refused, from {gateway.full_limit} all" in TEXT
    assert f"{DEFAULT_MAX_BATCH_SIZE} if nothing says otherwise" in TEXT


def test_the_backends_read_the_parameters_that_the_page_names() -> None:
    for backend, cell in re.findall(r"^\| (onnxruntime|pytorch) \| (`.+?) \|", TEXT, re.MULTILINE):
        file = {"onnxruntime": onnxruntime, "pytorch": torch}[backend].__file__
        for parameter in re.findall(r"`(\w+)`", cell):
            assert f'"{parameter}"' in Path(str(file)).read_text(), parameter


@pytest.fixture(params=["", DELAY], ids=["default", "delay"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Place, str]]:
    """The page's server under both configurations."""
    place = Place(tmp_path)
    place.write("models/mlp/1/model.py", BLOCKS["mlp"])
    place.write("models/mlp/config.pbtxt", request.param)
    with place.serving(BLOCKS["serve"].strip()):
        yield place, request.param


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_example_runs_and_its_metrics_tell_the_configurations_apart(served: tuple[Place, str]) -> None:
    place, delay = served
    loads = [("alone", "1")] if delay else [("open", "poisson"), ("closed", "32")]
    for name, row in loads:
        short = re.sub(r"--duration \d+", "--duration 0.5 --warmup 0.2", BLOCKS[name])
        assert f"\n| {row} |" in place.shell(short)
    scraped = place.shell(BLOCKS["metrics"])
    reasons = set(re.findall(r'penstock_worker_batches_total{.*reason="(\w+)"', scraped))

    assert ("no_delay" in reasons) == (not delay)
    assert ("delay" in reasons) == bool(delay)
    for name in ("nv_inference_count", "nv_inference_exec_count", "penstock_worker_queue_seconds_sum"):
        assert f"{name}{{" in scraped
    text = httpx.get(f"http://127.0.0.1:{place.ports['8002']}/metrics").text
    exported = {
        name for name in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE) if name.startswith(("nv_", "penstock_"))
    }
    assert exported - names() == set()
