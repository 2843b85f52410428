"""Inspecting a version and then loading it in one process, reading its file once.

A backend that has to load a model to inspect it can hand that on. It then has two methods more than `Backend` asks for:

- `open(version, placement) -> (metadata, opened)`: `inspect`, and what the first load of this version can go on with, or None.
  `placement` is what the instance will probably get.
- `load_opened(version, placement, opened) -> Instance`: `load` with that; it reads the file again if `opened` does not fit.

Whoever holds `opened` holds the model's memory.

An instance that can serve its loaded model by another configuration has a method `with_config(config) -> Instance | None`, which
returns None if the model must be loaded anew: it is not as it was when it was loaded.
"""

from __future__ import annotations

from typing import Any

from protocol.model_config import ModelConfig
from workers.backends.base import Backend, Instance
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion


def open_version(
    backend: Backend, version: ModelVersion, placement: Placement | None
) -> tuple[BackendMetadata | None, Any]:
    """See `Backend.inspect`; also what `load_version` takes.

    Args:
        backend: of the version.
        version: its configuration need not be complete.
        placement: of its first instance, as far as it is known now; None if it is not.

    Raises:
        ConfigError: see `Backend.inspect`.
    """
    opens = getattr(backend, "open", None)
    if opens is None or placement is None:
        return backend.inspect(version), None
    metadata, opened = opens(version, placement)
    return metadata, opened


def load_version(backend: Backend, version: ModelVersion, placement: Placement, opened: Any) -> Instance:
    """See `Backend.load`.

    Args:
        backend: that opened the version.
        version: with its complete configuration.
        placement: of the instance.
        opened: from `open_version`, for the first instance of that process; None for a further one.

    Raises:
        ConfigError, ModelFailed: see `Backend.load`.
    """
    if opened is None:
        return backend.load(version, placement)
    instance: Instance = backend.load_opened(version, placement, opened)  # type: ignore[attr-defined]
    return instance


def reconfigured(instance: Instance, config: ModelConfig) -> Instance | None:
    """The same loaded model under another configuration; None if it must be loaded anew. The instance is used no more.

    Args:
        instance: loaded.
        config: complete.
    """
    renew = getattr(instance, "with_config", None)
    renewed: Instance | None = None if renew is None else renew(config)
    return renewed
