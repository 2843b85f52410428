"""Zip archives whose member names look like model files."""

from __future__ import annotations

import io
import zipfile


def archive(*names: str) -> bytes:
    """One with these names in it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return target.getvalue()
