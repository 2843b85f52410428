"""A model that waits instead of computing, as a host waits for an accelerator: several workers on two cores run side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loadtest import payloads
from loadtest.payloads import InputSpec, Pool

MODEL: Final = "waits"
_INPUTS: Final = (InputSpec("X", "FP32", (1, 4)),)
_CONFIG: Final = """backend: "python"
max_batch_size: %d
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] } ]
dynamic_batching { }
"""
_SOURCE: Final = """import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        time.sleep(%s)

    def execute(self, requests):
        time.sleep(%s)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(r, "X").as_numpy())])
            for r in requests
        ]
"""


def write_model(repository: Path, max_batch: int, batch_seconds: float, load_seconds: float = 0.0) -> Path:
    """Write it, and return the repository.

    Args:
        repository: a folder, made if it is not there.
        max_batch: rows of the largest batch.
        batch_seconds: for a batch of any size.
        load_seconds: to load it.
    """
    folder = repository / MODEL / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(_SOURCE % (load_seconds, batch_seconds))
    (folder.parent / "config.pbtxt").write_text(_CONFIG % max_batch)
    return repository


def requests() -> Pool:
    """Requests of one row, and their answers."""
    return payloads.build(_INPUTS, 64, reference=lambda arrays: {"Y": arrays["X"]})
