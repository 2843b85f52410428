"""Repository agents: what a configuration asks to be done with a model's files before they are loaded. There is one, `checksum`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from protocol.model_config import ModelConfig

_CHUNK: Final = 1 << 20


def run_agents(config: ModelConfig, folder: Path) -> None:
    """Compare each file with the MD5 that the configuration states.

    Args:
        config: its agents are already checked.
        folder: the model's.

    Raises:
        ConfigError: a file cannot be read, or has another MD5.
    """
    for agent in config.agents:
        for key, expected in agent.parameters.items():
            path = folder / key.partition(":")[2]
            try:
                found = _md5(path)
            except OSError as error:
                raise ConfigError(
                    f"repository agent '{agent.name}': '{path}' cannot be read: {error.strerror}"
                ) from None
            if found != expected.lower():
                raise ConfigError(
                    f"Mismatched MD5 hash for file {path}, expect: {expected}, got: {found}; the file was changed or is incomplete"
                )


def _md5(path: Path) -> str:
    content = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest()
