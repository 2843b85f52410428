"""Backends, one file each, found through the entry-point group `penstock.backends` and imported only for a model that needs one.

Decides how a model file becomes instances, and how requests become a batch of arrays and outputs become tensors (`assembly`).

Interface: `load_backend`, `usable_gpus`; for a new backend `base` and `tensor_instance`.
Invariants: a framework is imported only in its backend's file, inside functions; backends do not import each other; `prepare` and
`split` keep no state in the instance.
Imports `repository` for configurations and placements, nothing that serves.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from protocol.errors import ConfigError
from workers.backends.base import Backend

GROUP: Final = "penstock.backends"

_OURS: Final = {
    "identity": "workers.backends.identity:IdentityBackend",
    "onnxruntime": "workers.backends.onnxruntime:OnnxBackend",
    "pytorch": "workers.backends.torch:TorchBackend",
    "python": "workers.backends.python:PythonBackend",
}
"""Found even if the package is not installed; an entry point of the same name replaces one."""

_EXTRAS: Final = {"onnxruntime": ("onnxruntime", "onnx"), "pytorch": ("torch", "torch")}
"""The module that one of our backends imports when it loads a model, and the extra that installs it."""

_INSTEAD: Final = {
    "onnx": "did you mean 'onnxruntime'?",
    "torch": "did you mean 'pytorch'?",
    "libtorch": "did you mean 'pytorch'?",
    "tensorrt": "serve the ONNX file that the engine was built from",
    "openvino": "serve the ONNX or PyTorch file that the model was made from",
    "tensorflow": "export the model to ONNX: pip install tf2onnx, then python -m tf2onnx.convert --saved-model FOLDER "
    "--output model.onnx",
    "fil": "export the trees to ONNX with onnxmltools or skl2onnx",
}
"""What to serve in place of models for Triton's other backends."""


def installed() -> dict[str, str]:
    """Name -> `module:class` of every installed backend; imports none."""
    return _OURS | {point.name: point.value for point in entry_points(group=GROUP)}


def no_backend(name: str, known: Collection[str]) -> str:
    """That there is no such backend, and what to serve instead, if that is known."""
    cure = f"; {_INSTEAD[name]}" if name in _INSTEAD else ""
    return f"there is no backend '{name}'; there are: {', '.join(sorted(known))}{cure}"


def load_backend(name: str) -> Backend:
    """A new backend of that name.

    Raises:
        ConfigError: there is none, or its framework is not installed; says what to install.
    """
    known = installed()
    if name not in known:
        raise ConfigError(no_backend(name, known))
    module, extra = _EXTRAS.get(name, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise ConfigError(f"backend '{name}' needs {module}, which is not installed: pip install 'penstock[{extra}]'")
    where, _, attribute = known[name].partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(where), attribute)()
    except ImportError as exc:
        raise ConfigError(f"backend '{name}' cannot be imported: {exc}") from exc
    return backend


def usable_gpus(backend: Any, gpus: Sequence[int]) -> Sequence[int]:
    """The GPUs that the installed backend can use; none unless it has a method `usable_gpus`, which is not called without GPUs."""
    choose: Callable[[Sequence[int]], Sequence[int]] | None = getattr(backend, "usable_gpus", None)
    return choose(gpus) if choose is not None and gpus else ()
