"""Building model versions on disk and running one batch through a backend, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protocol.messages import Failure, InferRequest
from protocol.model_config import Kind
from protocol.tensors import Array, from_array
from workers.backends.base import Backend, Instance
from workers.repository.completion import complete
from workers.repository.placement import Placement, place
from workers.repository.scan import scan_repositories
from workers.repository.version import ModelVersion


def version_of(repository: Path, name: str) -> ModelVersion:
    """The only version of that model of the repository, not yet completed by its backend."""
    (folder,) = [folder for folder in scan_repositories([repository]) if folder.name == name]
    assert folder.reason == ""
    return folder.versions[-1]


def load(backend: Backend, version: ModelVersion) -> Instance:
    """Complete the configuration as a worker does, and load the first instance on the CPU."""
    import dataclasses

    config = complete(version.config, backend.inspect(version))
    return backend.load(dataclasses.replace(version, config=config), place(config, [], 1)[0])


def request(outputs: tuple[str, ...] = (), label: str = "", **inputs: Array) -> InferRequest:
    tensors = tuple(from_array(name, np.asarray(array)) for name, array in inputs.items())
    return InferRequest("id", "m", "1", tensors, outputs, label=label)


def run(instance: Instance, requests: Sequence[InferRequest]) -> list[dict[str, Array] | Failure]:
    """All three steps of one batch."""
    raw = instance.run(instance.prepare(requests))
    return [
        outcome if isinstance(outcome, Failure) else {tensor.name: tensor.array() for tensor in outcome}
        for outcome in instance.split(requests, raw)
    ]


CPU = Placement("m_0_0", Kind.CPU, None, 1)
