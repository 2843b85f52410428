"""The limit: a model called directly in a loop, without any server. Also the reference that answers are checked against.

Invariant: nothing between the loop and the framework but the call itself; inputs are stacked beforehand. On a GPU the call takes
and returns arrays of the host, as a server's does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.models import ALL
from loadtest.payloads import InputSpec, draw
from protocol.errors import Unavailable

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32)


def load(folder: Path, outputs: tuple[str, ...] | None = None) -> Run:
    """A function from named inputs to named outputs, on one thread, for the newest version in a model folder.

    Args:
        folder: the model's folder in a repository, holding N/model.onnx or N/model.pt.
        outputs: names for a TorchScript model's results, which have none; by default those of the benchmark's models.

    Raises:
        FileNotFoundError: no version holds a model file of these kinds.
        Unavailable: the model needs a GPU, and onnxruntime cannot use one.
    """
    versions = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdecimal())
    known = ALL.get(folder.name)
    on_gpu = known is not None and known.on_gpu
    for _, version in reversed(versions):
        if (version / "model.onnx").exists():
            return _onnx(version / "model.onnx", on_gpu=on_gpu)
        if (version / "model.pt").exists():
            return _torch(version / "model.pt", outputs or (known.outputs if known else ("OUTPUT__0",)), on_gpu=on_gpu)
    raise FileNotFoundError(f"{folder} holds no N/model.onnx and no N/model.pt; only these can be called directly")


def _onnx(path: Path, *, on_gpu: bool) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    providers = ["CUDAExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if session.get_providers()[0] != providers[0]:  # it fell back to the CPU, so this is no limit of a GPU
        raise Unavailable(f"onnxruntime could not start {providers[0]}; its log says what is missing")
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run


def _torch(path: Path, outputs: tuple[str, ...], *, on_gpu: bool) -> Run:
    import torch

    torch.set_num_threads(1)
    device = "cuda" if on_gpu else "cpu"
    module = torch.jit.load(str(path), map_location=device).eval()

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            results = module(*(torch.from_numpy(array).to(device) for array in inputs.values()))
        tensors = results if isinstance(results, tuple) else (results,)
        return {name: tensor.cpu().numpy() for name, tensor in zip(outputs, tensors, strict=True)}

    return run


def measure(
    folder: Path, inputs: Iterable[InputSpec], seconds: float = 2.0, batch_sizes: Iterable[int] = BATCH_SIZES
) -> dict[int, float]:
    """Rows per second by batch size, each called in a loop for `seconds`; run it on the core that the servers are pinned to."""
    run, specs = load(folder), tuple(inputs)
    random = np.random.default_rng(0)
    rates: dict[int, float] = {}
    for size in batch_sizes:
        batches = [
            {spec.name: np.concatenate([draw(spec, random) for _ in range(size)]) for spec in specs} for _ in range(8)
        ]
        for batch in batches:
            run(batch)
        rates[size] = size * _calls_per_second(run, batches, seconds)
    return rates


def _calls_per_second(run: Run, batches: list[dict[str, Array]], seconds: float) -> float:
    calls, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        run(batches[calls % len(batches)])
        calls += 1
    return calls / elapsed
