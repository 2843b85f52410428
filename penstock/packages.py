"""Whether Python finds our packages, whose names are plain, or something of the user's that is called the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

NAMES: Final = ("protocol", "gateway", "workers")


def hidden() -> str:
    """The sentence about a file or folder that hides one of our packages; "" if none does."""
    home = Path(__file__).absolute().parents[1]
    for name in NAMES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        found = Path(spec.origin)
        if found.parent != home / name:
            hides = found.parent if found.stem == "__init__" else found
            return (
                f"'{hides}' hides Penstock's own package '{name}', because Python looks there first: rename it, or take its folder "
                "out of PYTHONPATH; with `python -m`, and from a script, Python also looks in the current folder, or the script's"
            )
    return ""
