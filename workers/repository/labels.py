"""Reads the label files of a version's outputs: one class name per line, for the classification extension.

Invariants: what is read is bounded, since it travels in the announcement, which is one record of the broker; names are UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from protocol.model_config import ModelConfig

MAX_BYTES: Final = 512 * 1024
"""Bytes of all label files of a version; half of the largest record that a broker accepts by default."""
MAX_LABELS: Final = 65_536
"""Names of one output."""


def read_labels(config: ModelConfig, folder: Path) -> Mapping[str, tuple[str, ...]]:
    """The class names by output, of the outputs that have a label file.

    Args:
        config: of the version.
        folder: the model's.

    Raises:
        ConfigError: a file is missing (in Triton's words), is not UTF-8, lies outside the folder, or is too large.
    """
    labels: dict[str, tuple[str, ...]] = {}
    left = MAX_BYTES
    for spec in config.outputs:
        if spec.label_filename:
            data = _content(folder, spec.label_filename, left)
            left -= len(data)
            labels[spec.name] = _names(data, folder / spec.label_filename)
    return labels


def _content(folder: Path, name: str, left: int) -> bytes:
    path = folder / name
    if path.exists() and not path.is_file():
        raise ConfigError(f"label file '{path}' is not a file")
    try:
        with path.open("rb") as file:
            data = file.read(left + 1)
    except OSError as error:
        raise ConfigError(f"failed to open text file for read {path}: {error.strerror}") from None
    if len(data) > left:
        raise ConfigError(
            f"label file '{path}' is too large: the label files of a model may have {MAX_BYTES} bytes together"
        )
    return data


def _names(data: bytes, path: Path) -> tuple[str, ...]:
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"label file '{path}' is not UTF-8 in line {line}; save it as UTF-8") from None
    if not lines[-1]:
        lines.pop()
    if len(lines) > MAX_LABELS:
        raise ConfigError(f"label file '{path}' has {len(lines)} lines; at most {MAX_LABELS} are allowed")
    return tuple(lines)
