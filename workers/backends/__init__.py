"""Backends: one file each, found through the entry-point group `penstock.backends`, imported only when a model asks for it."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Final

from protocol.errors import ConfigError
from workers.backends.base import Backend

GROUP: Final = "penstock.backends"

_OURS: Final = {
    "identity": "workers.backends.identity:IdentityBackend",
    "onnxruntime": "workers.backends.onnxruntime:OnnxBackend",
    "pytorch": "workers.backends.torch:TorchBackend",
    "python": "workers.backends.python:PythonBackend",
}
"""Also found where the package is not installed; an entry point of the same name replaces one."""

_EXTRAS: Final = {"onnxruntime": "onnx", "pytorch": "torch", "tensorrt": "tensorrt"}


def installed() -> dict[str, str]:
    """Name -> `module:class` of every backend that is there; none is imported."""
    return _OURS | {point.name: point.value for point in entry_points(group=GROUP)}


def load_backend(name: str) -> Backend:
    """A new backend of that name.

    Raises:
        ConfigError: there is none, or what it needs is not installed; says what to install.
    """
    known = installed()
    if name not in known:
        raise ConfigError(f"there is no backend '{name}'; installed are {', '.join(sorted(known))}")
    module, _, attribute = known[name].partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), attribute)()
    except ImportError as exc:
        extra = f"; install it with: pip install 'penstock[{_EXTRAS[name]}]'" if name in _EXTRAS else ""
        raise ConfigError(f"backend '{name}' cannot be imported: {exc}{extra}") from exc
    return backend
