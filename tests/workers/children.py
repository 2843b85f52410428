"""Models in child processes, for tests."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from protocol.messages import InferRequest
from protocol.runtime.clock import Clock
from protocol.tensors import Array, Tensor, from_array
from tests.workers.fleet import write_model
from workers.backends.base import Outcome
from workers.batching.types import Batch, Release
from workers.instances.executor import Completions
from workers.instances.job import Entry, Executor, Job
from workers.instances.loaded import LoadedModel
from workers.instances.process.executor import ChildExecutor
from workers.lifecycle.loader import Loader
from workers.repository.scan import scan_repositories
from workers.repository.version import ModelVersion

CONFIG = """
backend: "python" max_batch_size: 64
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""
OBEDIENT = """
    import ctypes, os, pathlib, signal, sys, time
    HERE = pathlib.Path(__file__).parent

    class Model:
        def __init__(self):
            if (HERE / "exit-at-load").exists():
                os._exit(9)
            if (HERE / "raise-at-load").exists():
                raise KeyError("weights")

        def predict(self, X):
            order = X[0, 0]
            if order == -1:
                os._exit(3)
            if order == -2:
                sys.stdout.write("about to crash\\n")
                ctypes.string_at(0)
            if order == -3:
                (HERE / "running").write_text(str(os.getpid()))
                signal.pause()
            if order == -4:
                raise ValueError("a bad number")
            if order == -5:
                sys.exit("no more")
            return {"Y": X if order == -6 else X + 1} if order != -7 else {}
"""
"""Adds one, or does what the first number asks."""
EXIT, SEGFAULT, HANG, RAISE, LEAVE, ECHO, NOTHING = -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0


def version_of(
    root: Path, code: str = OBEDIENT, config: str = CONFIG, files: Mapping[str, str] | None = None
) -> ModelVersion:
    """Model m, of this code and these files beside it."""
    files = {name: textwrap.dedent(text) for name, text in {"model.py": code, **(files or {})}.items()}
    write_model(root, "m", config, files)
    (folder,) = scan_repositories([root])
    assert not folder.reason, folder.reason
    (version,) = folder.versions
    return version


def loader() -> Loader:
    return Loader((), 2, 32, 2, Clock())


def request(*values: float, name: str = "X") -> InferRequest:
    return InferRequest("id", "m", "1", (from_array(name, np.array([values], np.float32)),))


class Running:
    """A loaded model and its answers."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._back: asyncio.Queue[Job] = asyncio.Queue()
        completions = Completions(asyncio.get_running_loop(), self._on_finished)
        for executor in loaded.executors:
            executor.deliver_to(completions)

    def _on_finished(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._back.put_nowait(job)

    @property
    def child(self) -> ChildExecutor:
        """The first instance."""
        executor = self.loaded.executors[0]
        assert isinstance(executor, ChildExecutor)
        return executor

    @property
    def idle(self) -> bool:
        """Whether every job that came back was taken."""
        return self._back.empty()

    def job(self, *requests: InferRequest, executor: Executor | None = None) -> Job:
        """A prepared batch."""
        executor = executor or self.loaded.executors[0]
        entries = [Entry(each.id, 1, "", each, 0.0) for each in requests]
        job = Job(Batch(list(entries), len(entries), Release.FULL, 0.0, 0), entries, executor)
        job.prepared = executor.prepare(requests)
        return job

    def submit(self, *requests: InferRequest, executor: Executor | None = None) -> Job:
        """Prepare and submit a batch."""
        job = self.job(*requests, executor=executor)
        job.executor.submit(job)
        return job

    async def back(self) -> Job:
        """The next job that comes back."""
        async with asyncio.timeout(30):
            return await self._back.get()

    async def run(self, *requests: InferRequest, executor: Executor | None = None) -> Job:
        self.submit(*requests, executor=executor)
        return await self.back()

    async def ask(self, *requests: InferRequest, executor: Executor | None = None) -> Sequence[Outcome]:
        """One batch's outcomes; raises its error."""
        job = await self.run(*requests, executor=executor)
        if job.error is not None:
            raise job.error
        outcomes: Sequence[Outcome] = job.executor.split(job.requests, job.raw)
        return outcomes

    async def value(self, *values: float) -> list[float]:
        """The answer to one row."""
        (outcome,) = await self.ask(request(*values))
        assert isinstance(outcome, tuple)
        return outcome[0].array()[0].tolist()  # type: ignore[no-any-return]


@asynccontextmanager
async def running(version: ModelVersion) -> AsyncIterator[Running]:
    """The version, loaded, and closed at the end."""
    loaded = await loader().load(version)
    try:
        yield Running(loaded)
    finally:
        await loaded.close()


def plain(outcome: Outcome) -> object:
    """Something to compare."""
    if not isinstance(outcome, tuple):
        return outcome
    return [_plain(tensor) for tensor in outcome]


def _plain(tensor: Tensor) -> tuple[str, str, tuple[int, ...], bytes]:
    return tensor.name, tensor.datatype, tensor.shape, bytes(tensor.data)


def column(datatype: str, rows: int) -> Tensor:
    """A tensor of rows of three, with something in every element."""
    if datatype == "BYTES":
        elements = [[f"{row}é".encode() * column for column in range(3)] for row in range(rows)]
        return from_array("X", np.array(elements, dtype=object))
    bits: Array = np.arange(rows * 3, dtype="<u2").reshape(rows, 3)
    if datatype == "BF16":
        return from_array("X", bits, "BF16")
    kinds = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
    kind = kinds.get(datatype) or f"<{'u' if datatype.startswith('U') else 'i'}{int(datatype.lstrip('UINT')) // 8}"
    return from_array("X", (bits % 2 if datatype == "BOOL" else bits).astype(kind))
