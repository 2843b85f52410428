"""Processes of the previous wire version serve beside new ones, and each takes over from the other, without a lost request."""

from __future__ import annotations

import functools
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.integration.fleet import Fleet, Process, fleet, wait_for
from tests.integration.repositories import PLUS, write_model
from tests.integration.traffic import Traffic

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]

PREVIOUS: Final = "d8f345358fcd"
"""The last commit whose processes write each heartbeat as one value (decision 0022)."""
SOURCES: Final = ("penstock", "gateway", "workers", "protocol", "infra", "pyproject.toml")
HERE: Final = Path(__file__).parents[2]


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The source tree of the previous wire version."""
    archive = subprocess.run(["git", "-C", str(HERE), "archive", PREVIOUS, *SOURCES], capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(
            f"no history with commit {PREVIOUS} here (git fetch --unshallow): {archive.stderr.decode().strip()}"
        )
    tree = tmp_path / "previous"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tree, filter="data")
    return tree


@pytest.fixture
def site(kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path) -> Iterator[Fleet]:
    slow = (PLUS % 1).replace("0.005", "0.05").replace("max_batch_size = 8", "max_batch_size = 2")
    write_model(tmp_path / "models", "plus", slow)  # one worker is too few for twelve callers
    with fleet(kafka_bootstrap, redis_url, prefix, tmp_path, tmp_path / "models") as running:
        yield running


def counts(gateway: Process) -> dict[str, int]:
    """What each worker has run, by its id, as this gateway is told by the workers."""
    found = httpx.get(f"{gateway.url}/v2/models/plus/stats", params={"per_worker": "true"}, timeout=30).json()
    return {worker["worker"]: worker.get("inference_count", 0) for worker in found["model_stats"][0]["workers"]}


def all_run(site: Fleet, *names: str) -> None:
    """Wait until each of these workers has run more than before, as both gateways say; of lost ones they have the last counts."""
    before = found = counts(site.gateways[-1])

    def grown(gateway: Process) -> bool:
        nonlocal found
        found = counts(gateway)
        return all(found.get(name, 0) > before.get(name, 0) + 20 for name in names)

    for gateway in site.gateways:
        try:
            wait_for(f"requests on {names}", functools.partial(grown, gateway))
        except AssertionError as error:
            raise AssertionError(f"{error}, as {gateway.name} says; before {before}, then {found}") from None


def test_old_and_new_processes_serve_together_and_take_over_from_each_other(site: Fleet, previous: Path) -> None:
    site.add_gateway(tree=previous)
    old = site.add_worker(name="old", tree=previous)
    site.wait_ready(1)
    site.add_gateway()
    new = site.add_worker(name="new")
    site.wait_ready(1)
    assert b"previous" in Path(f"/proc/{old.process.pid}/environ").read_bytes()
    with Traffic(site, callers=12) as traffic:
        all_run(site, "old", "new")
        traffic.while_(old.kill)  # the new supervisor finds it dead, and takes it out of its groups
        all_run(site, "new")
        site.workers.remove(old)
        site.add_worker(name="back", tree=previous)  # as when an upgrade is rolled back
        all_run(site, "back", "new")
        traffic.while_(new.kill)
        all_run(site, "back")
        site.workers.remove(new)
    assert {code for _, _, code, _ in traffic.answers} == {200}
    assert {value for _, _, _, value in traffic.answers} == {2.0}
    slowest = max(seconds for _, seconds, _, _ in traffic.answers)
    print(f"{len(traffic.answers)} requests, none lost; the slowest took {slowest:.2f} s")
    assert site.stop() == [0, 0, 0]
