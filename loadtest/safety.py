"""The cost of safety: the journal, heartbeats and child processes, in microseconds of CPU, each measured alone.

Everything runs in this process, without servers: a batch goes to an instance that is a thread and to one that is a child, with the
same Python model and the same requests, one batch at a time. `python -m loadtest safety` prints the table.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import psutil

from loadtest import models, payloads
from loadtest.results import SafetyCost
from protocol.heartbeat_codec import encode_heartbeat
from protocol.messages import Heartbeat, InferRequest, ModelLoad, ModelState
from protocol.runtime.clock import Clock
from protocol.tensors import from_array
from workers.batching.types import Batch, Release
from workers.crash_journal import CrashJournal, CrashJournalReader
from workers.instances.executor import Completions
from workers.instances.job import Entry, Executor, Job
from workers.instances.loaded import LoadedModel
from workers.instances.process.executor import PARAMETER, ChildExecutor
from workers.lifecycle.loader import Loader
from workers.repository.scan import scan_repositories
from workers.repository.version import ModelVersion
from workers.system.framing import frame

MODEL: Final = "addsub-python"
SIZES: Final = (1, 32)


def measure(folder: Path, seconds: float) -> list[SafetyCost]:
    """Every row, each measured for about `seconds`, in CPU time.

    Args:
        folder: where the model's repository is made.
    """
    costs = [_journal(size, seconds) for size in SIZES]
    costs.append(_heartbeat(seconds))
    for size in SIZES:
        costs += asyncio.run(_children(folder, size, seconds))
    return costs


def _journal(size: int, seconds: float) -> SafetyCost:
    """Note the names of a batch's requests before it runs, and clear them after."""
    reader = CrashJournalReader()
    try:
        slot = CrashJournal(os.dup(reader.descriptor)).open_slot()
        assert slot is not None
        names = [f"{uuid.uuid4()}" for _ in range(size)]

        def once() -> None:
            slot.note("\n".join(names).encode())
            slot.clear()

        return SafetyCost("journal", size, {"worker": _microseconds(once, seconds)})
    finally:
        reader.close()


def _heartbeat(seconds: float) -> SafetyCost:
    """Encode the heartbeat of a worker with one busy model; it is sent twice a second, whatever the load."""
    load = ModelLoad(
        MODEL, "1", ModelState.READY, (0, 1, 2, 3), 10, 10, 32, 100, 0.01,
        {f"16x16/{size}": 0.001 for size in (1, 2, 4, 8, 16, 32)},
    )  # fmt: skip
    beat = Heartbeat("worker-1", uuid.uuid4().hex, "host", os.getpid(), time.time(), (load,), {"topic": "member"})
    return SafetyCost("heartbeat", 0, {"worker": _microseconds(lambda: frame(encode_heartbeat(beat)), seconds)})


def _microseconds(function: Callable[[], object], seconds: float) -> float:
    times, begun = 0, time.thread_time()
    while (spent := time.thread_time() - begun) < seconds:
        for _ in range(100):
            function()
        times += 100
    return spent / times * 1e6


# --- children --------------------------------------------------------------------------------------------------------


async def _children(folder: Path, size: int, seconds: float) -> list[SafetyCost]:
    """A whole batch through a thread and through a child; the difference is the cost of the child."""
    costs = []
    for isolation in ("thread", "process"):
        with _version(folder, isolation) as version:
            async with _loaded(version) as loaded:
                spent = await _Runs(loaded, size).measure(seconds)
        costs.append(SafetyCost(f"batch of a Python model in a {isolation}", size, spent))
    return costs


@contextmanager
def _version(folder: Path, isolation: str) -> Iterator[ModelVersion]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        repository = models.write_repository(Path(place), [MODEL])
        config = repository / MODEL / "config.pbtxt"
        parameter = f'parameters {{ key: "{PARAMETER}" value: {{ string_value: "{isolation}" }} }}\n'
        config.write_text(config.read_text() + parameter)
        (found,) = scan_repositories([repository])
        yield found.versions[0]


@asynccontextmanager
async def _loaded(version: ModelVersion) -> AsyncIterator[LoadedModel]:
    loaded = await Loader((), 1, 32, 1, Clock()).load(version)
    try:
        yield loaded
    finally:
        await loaded.close()


class _Runs:
    """Batches of one size through the model's instance."""

    def __init__(self, loaded: LoadedModel, size: int) -> None:
        self._executor: Executor = loaded.executors[0]
        self._back: asyncio.Queue[Job] = asyncio.Queue()
        self._executor.deliver_to(Completions(asyncio.get_running_loop(), self._came))
        pool = payloads.build(models.ALL[MODEL].inputs, size)
        self._requests = [
            InferRequest(str(number), MODEL, "1", tuple(from_array(name, array) for name, array in inputs.items()))
            for number, inputs in enumerate(pool.inputs[:size])
        ]

    def _came(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._back.put_nowait(job)

    async def measure(self, seconds: float) -> dict[str, float]:
        """CPU microseconds per batch, of this process and of the child, if there is one."""
        for _ in range(50):
            await self._once()
        child, begun = self._child_cpu(), time.process_time()
        times = 0
        while time.process_time() - begun + self._child_cpu() - child < seconds:
            for _ in range(20):
                await self._once()
            times += 20
        spent = {"worker": (time.process_time() - begun) / times * 1e6}
        if isinstance(self._executor, ChildExecutor):
            spent["child"] = (self._child_cpu() - child) / times * 1e6
        return spent

    async def _once(self) -> None:
        entries = [Entry(each.id, 1, "", each, 0.0) for each in self._requests]
        job = Job(Batch(list(entries), len(entries), Release.FULL, 0.0, 0), entries, self._executor)
        job.prepared = self._executor.prepare(self._requests)
        self._executor.submit(job)
        job = await self._back.get()
        if job.error is not None:
            raise job.error
        self._executor.split(self._requests, job.raw)

    def _child_cpu(self) -> float:
        pid = self._executor.pid if isinstance(self._executor, ChildExecutor) else None
        if pid is None:
            return 0.0
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
