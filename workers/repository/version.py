"""A model and its versions, as they lie on disk. Pure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from protocol.model_config import ModelConfig


@dataclasses.dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model, as it lies on disk.

    Attributes:
        model: the model's name.
        version: its number.
        path: the model file (for ONNX perhaps a folder), whether it is there or not; the version's folder where the backend has
            no file of its own.
        folder: the model's folder, with warm-up data and labels; of a single file, the folder it lies in.
        config: complete but for what only the model file can say; see `complete`.
        digest: SHA-256 over the version's files and config.pbtxt, in hex; "" where it was not asked for.
    """

    model: str
    version: int
    path: Path
    folder: Path
    config: ModelConfig
    digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model of a repository.

    Attributes:
        name: the folder's name.
        path: the folder.
        versions: those to serve, ascending; empty with a `reason`.
        reason: why none is served; "" when all is well.
        warnings: what was passed over.
    """

    name: str
    path: Path
    versions: tuple[ModelVersion, ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()
