"""A whole fleet in one process with models on a GPU, and how such models are written."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np

from penstock.client import AsyncClient
from penstock.one_process import OneProcess
from workers.instances.job import Executor
from workers.instances.process.executor import ChildExecutor


class Fleet:
    """A fleet in one process and a client of it."""

    def __init__(self, built: OneProcess, client: AsyncClient) -> None:
        self.built = built
        self.client = client

    def executors(self, model: str) -> list[Executor]:
        """The instances of its only version."""
        (serving,) = [each for each in self.built.worker.models.serving() if each.key[0] == model]
        return list(serving.loaded.executors)

    def child(self, model: str) -> ChildExecutor:
        """Its only instance."""
        (executor,) = self.executors(model)
        assert isinstance(executor, ChildExecutor)
        return executor

    async def ask(self, model: str, **inputs: Any) -> Mapping[str, Any]:
        """The outputs for these inputs."""
        return (await self.client.infer(model, {name: np.asarray(value) for name, value in inputs.items()})).outputs


Serve = Callable[[], AbstractAsyncContextManager[Fleet]]


def write(root: Path, name: str, config: str, code: str = "", module: Any = None) -> Path:
    """A model of this code, or of this module as TorchScript; returns the folder of its version."""
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(textwrap.dedent(config))
    if code:
        (folder / "model.py").write_text(textwrap.dedent(code))
    if module is not None:
        import torch

        with warnings.catch_warnings():  # TorchScript is deprecated upstream, and what Triton's repositories hold
            warnings.simplefilter("ignore")
            torch.jit.script(module).save(str(folder / "model.pt"))
    return folder
