"""Requests that a version answers before it is READY: Triton's `model_warmup`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from protocol.errors import ConfigError, FleetError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig, Warmup, WarmupInput
from protocol.random_values import random_values
from protocol.tensors import ITEM_SIZE, NUMPY_DTYPE, Tensor, check_size, element_count, pack_bytes
from workers.backends.base import Instance
from workers.instances.job import failure_message
from workers.repository.signature import Signature


def warm_up(instance: Instance, config: ModelConfig, samples: list[tuple[Warmup, list[InferRequest]]]) -> None:
    """Run every sample as often as its warm-up says; on the instance's own thread.

    Raises:
        ModelFailed: names the sample that failed, in Triton's words.
    """
    for warmup, requests in samples:
        for _ in range(warmup.count):
            try:
                outcomes = instance.split(requests, instance.run(instance.prepare(requests)))
            except (Exception, SystemExit, KeyboardInterrupt) as exc:  # SystemExit of a model must not end this process
                raise _failed(warmup, failure_message(config.name, exc)) from exc
            failure = next((outcome for outcome in outcomes if isinstance(outcome, Failure)), None)
            if failure is not None:
                raise _failed(warmup, failure.message)


def _failed(warmup: Warmup, message: str) -> ModelFailed:
    return ModelFailed(f"failed to run warmup sample '{warmup.name}': {message}")


def samples(config: ModelConfig, version: str, folder: Path) -> list[tuple[Warmup, list[InferRequest]]]:
    """The requests of each warm-up: `batch_size` requests of one row, or one request for a model that does not batch.

    Args:
        config: complete.
        version: for the requests.
        folder: the model's, with data files in its `warmup` folder.

    Raises:
        ConfigError: a data file is missing or has the wrong size.
    """
    signature = Signature(config)
    return [(warmup, _requests(warmup, config, version, folder / "warmup", signature)) for warmup in config.warmups]


def _requests(
    warmup: Warmup, config: ModelConfig, version: str, folder: Path, signature: Signature
) -> list[InferRequest]:
    rows = (1,) if config.batching else ()
    inputs = []
    for name, given in warmup.inputs.items():
        tensor = Tensor(name, given.datatype, (*rows, *given.dims), _DATA[given.source](given, folder))
        try:
            check_size(tensor)
        except FleetError as exc:
            raise ConfigError(f"model_warmup '{warmup.name}' of {config.name}: {exc.message}") from None
        inputs.append(tensor)
    request = InferRequest(f"warmup-{warmup.name}", config.name, version, tuple(inputs))
    try:
        request = signature.in_order(request, signature.check_request(request))
    except FleetError as exc:
        raise ConfigError(f"model_warmup '{warmup.name}' of {config.name}: {exc.message}") from None
    return [request] * max(1, warmup.batch_size if config.batching else 1)


def _zeros(given: WarmupInput, folder: Path) -> bytes:
    count = element_count(given.dims)
    return (
        pack_bytes([b""] * count) if given.datatype == "BYTES" else bytes(count * NUMPY_DTYPE[given.datatype].itemsize)
    )


def _random(given: WarmupInput, folder: Path) -> bytes:
    """Those of `protocol.random_values`; BYTES are empty, as Triton's are."""
    if given.datatype == "BYTES":
        return _zeros(given, folder)
    return random_values(given.datatype, given.dims, np.random.default_rng()).tobytes()


def _file(given: WarmupInput, folder: Path) -> bytes:
    """The file's bytes, those of numbers as far as they are needed, as in Triton."""
    path = folder / given.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"warm-up file '{given.file}' lies outside '{folder}'")
    try:
        data = path.read_bytes()
        return data if given.datatype == "BYTES" else data[: element_count(given.dims) * ITEM_SIZE[given.datatype]]
    except OSError as exc:
        raise ConfigError(f"warm-up file '{path}' cannot be read: {exc.strerror}") from None


_DATA: dict[str, Callable[[WarmupInput, Path], bytes]] = {
    "zero_data": _zeros,
    "random_data": _random,
    "input_data_file": _file,
}
