"""What goes wrong on a GPU costs whoever caused it, and nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from protocol.errors import Code, FleetError
from protocol.tensors import Array
from tests.gpu.fleet import Serve, write
from tests.workers.fleet import until

IDS = """
    backend: "pytorch" max_batch_size: 32
    input [ { name: "INPUT__0" data_type: TYPE_INT64 dims: [2] } ]
    output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2, 3] } ]
    instance_group [ { kind: KIND_GPU } ]
    dynamic_batching { max_queue_delay_microseconds: 200000 preferred_batch_size: [ 32 ] }
"""
NUMBER = """
    backend: "python" max_batch_size: 32
    input [ { name: "X" data_type: TYPE_FP32 dims: [1] } ]
    output [ { name: "Y" data_type: TYPE_FP32 dims: [1] } ]
    instance_group [ { kind: KIND_GPU } ]
    dynamic_batching { max_queue_delay_microseconds: 200000 preferred_batch_size: [ 32 ] }
"""


def lookup() -> object:
    """A table of 100 rows: asked for row 100, CUDA's assertion fails, and with it everything else in the process."""
    import torch

    return torch.nn.Embedding(100, 3)


async def test_a_failed_assertion_on_the_device_restarts_the_instance_and_harms_nobody_else(
    tmp_path: Path, serve: Serve, record_property: Callable[[str, object], None]
) -> None:
    import torch

    table = lookup()
    assert isinstance(table, torch.nn.Embedding)
    write(tmp_path, "lookup", IDS, module=table)
    rows = [np.int64([[number, 99 - number]]) for number in range(32)]
    rows[13][0, 1] = 100
    waited: list[float] = []
    async with serve() as fleet:

        async def ask(row: Array) -> Mapping[str, Any]:
            began = time.monotonic()
            answer = await fleet.ask("lookup", INPUT__0=row)
            waited.append(time.monotonic() - began)
            return answer

        await fleet.ask("lookup", INPUT__0=rows[0])
        first = fleet.child("lookup").pid
        answers = await asyncio.gather(*[ask(row) for row in rows], return_exceptions=True)
        record_property("longest_wait_of_an_innocent_s", max(waited))

        culprit = answers.pop(13)
        assert isinstance(culprit, FleetError), culprit
        assert culprit.code is Code.MODEL_FAILED
        assert "device-side assert triggered', which no process survives, on this request" in culprit.message
        rows.pop(13)
        for row, answer in zip(rows, answers, strict=True):
            assert isinstance(answer, dict), answer
            np.testing.assert_array_equal(answer["OUTPUT__0"], table(torch.from_numpy(row)).detach())
        child = fleet.child("lookup")
        await until(lambda: child.restarts >= 3)  # the culprit is answered before the last of them
        assert child.pid != first
        assert child.restarts <= 6
        assert (await fleet.ask("lookup", INPUT__0=rows[0]))["OUTPUT__0"].shape == (1, 2, 3)


async def test_a_batch_that_needs_more_memory_than_there_is_runs_in_smaller_ones(tmp_path: Path, serve: Serve) -> None:
    code = """
        import pathlib, torch

        LOG = pathlib.Path(__file__).parent / "rows"

        class Model:
            def predict(self, X):
                with LOG.open("a") as log:
                    log.write(f"{len(X)}\\n")
                free, total = torch.cuda.mem_get_info()
                block = torch.empty(int(total * 0.08) * len(X), dtype=torch.uint8, device="cuda")
                block[-1] = 1
                return {"Y": X + block[-1].item()}
    """
    folder = write(tmp_path, "hog", NUMBER, code)
    async with serve() as fleet:
        for attempt in range(2):
            numbers = [float(32 * attempt + number) for number in range(32)]
            answers = await asyncio.gather(*[fleet.ask("hog", X=np.float32([[number]])) for number in numbers])
            assert [float(answer["Y"][0, 0]) for answer in answers] == [number + 1 for number in numbers]
        assert fleet.child("hog").restarts == 0
    sizes = [int(line) for line in (folder / "rows").read_text().split()]
    assert sizes[0] > 12, "the first batch was small enough by itself: nothing is proven"
    failed = [size for size in sizes if size > 12]
    assert len(failed) <= 3, sizes  # 32 and perhaps 16; the second round's batches begin below the cap
    assert sum(sizes) - sum(failed) == 64, sizes  # and every request ran well exactly once


async def test_a_kernel_that_never_ends_is_killed_and_its_batch_is_answered(tmp_path: Path, serve: Serve) -> None:
    code = """
        import torch

        class Model:
            def predict(self, X):
                if (X == 13).any():
                    for _ in range(1000):
                        torch.cuda._sleep(10**12)
                    torch.cuda.synchronize()
                return {"Y": (torch.from_numpy(X.copy()).cuda() + 1).cpu().numpy()}
    """
    parameter = 'parameters { key: "max_execution_ms" value { string_value: "8000" } }'
    write(tmp_path, "sleeper", NUMBER + parameter, code)
    numbers = [1.0, 13.0, 2.0, 3.0]
    async with serve() as fleet:
        await fleet.ask("sleeper", X=np.float32([[0]]))
        answers = await asyncio.gather(
            *[fleet.ask("sleeper", X=np.float32([[number]])) for number in numbers], return_exceptions=True
        )
        hung = answers.pop(1)
        assert isinstance(hung, FleetError), hung
        assert "did not end in time" in hung.message
        assert [float(answer["Y"][0, 0]) for answer in answers] == [2.0, 3.0, 4.0]  # type: ignore[index]


async def test_the_memory_of_an_instance_that_was_killed_is_there_for_its_successor(
    tmp_path: Path, serve: Serve, record_property: Callable[[str, object], None]
) -> None:
    code = """
        import torch

        class Model:
            def __init__(self):
                total = torch.cuda.get_device_properties(0).total_memory
                self.weights = torch.ones(int(total * 0.6), dtype=torch.uint8, device="cuda")

            def predict(self, X):
                return {"Y": X + self.weights[-1].item()}
    """
    write(tmp_path, "big", NUMBER, code)
    async with serve() as fleet:
        assert (await fleet.ask("big", X=np.float32([[1]])))["Y"].tolist() == [[2.0]]
        child = fleet.child("big")
        assert child.pid is not None
        began = time.monotonic()
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.restarts > 0 and child.pid is not None)
        assert (await fleet.ask("big", X=np.float32([[2]])))["Y"].tolist() == [[3.0]]
        record_property("seconds_from_kill_to_answer", time.monotonic() - began)
        assert child.restarts == 1
