"""What is wrong with the PEM files of a server's TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE"
_MARKS: Final = {"TLS certificate": _CERTIFICATE, "TLS key": b"PRIVATE KEY-----", "client CA": _CERTIFICATE}
"""What a file of each kind contains."""
_LOOKED_AT: Final = 1 << 20


def refusal(error: OSError, certificate: str, key: str, client_ca: str = "") -> ConfigError:
    """The error about files that could not be loaded, which names the one that is to blame.

    Args:
        error: the system's, or of ssl.
        certificate, key, client_ca: the files; "" for none.
    """
    for kind, path in zip(_MARKS, (certificate, key, client_ca), strict=True):
        if path and (problem := _problem(kind, Path(path))):
            return ConfigError(f"{kind} '{path}' cannot be used: {problem}")
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return ConfigError(
            f"TLS certificate '{certificate}' and key '{key}' cannot be used: they do not belong together"
        )
    return ConfigError(
        f"TLS certificate '{certificate}' and key '{key}' cannot be used: {error}; both must be PEM files that belong together"
    )


def _problem(kind: str, path: Path) -> str:
    """Why a file is none of its kind; "" if it seems to be one."""
    try:
        with path.open("rb") as file:
            text = file.read(_LOOKED_AT)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    mark = _MARKS[kind]
    return "" if mark in text else f"it is no PEM file with a line {mark.decode().strip('-')}"
