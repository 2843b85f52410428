"""A model and its versions on disk. Pure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from protocol.model_config import ModelConfig


@dataclasses.dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model on disk.

    Attributes:
        model: the model's name.
        version: its number.
        path: the model file (for ONNX perhaps a folder), which need not exist; the version's folder for a backend without a file.
        folder: the model's folder, with warm-up data and labels; for a single file, the folder that it is in.
        config: complete except for what only the model file can say; see `completion.complete`.
        digest: SHA-256 over its files, config.pbtxt, and the label and warm-up files that this names, in hex; "" if not computed.
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
        reason: why none is served; "" if some are.
        warnings: on folders that were skipped.
    """

    name: str
    path: Path
    versions: tuple[ModelVersion, ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()
