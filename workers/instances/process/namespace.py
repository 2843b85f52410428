"""A model's own modules come before this program's: in a child, `import protocol` in model.py means the file beside it.

Called once all our modules are imported: they hold references to each other and need no entries in `sys.modules`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

OURS: Final = ("protocol", "workers", "gateway", "penstock", "loadtest")
"""Our top-level packages; a model's author may choose the same names."""


def prefer_modules_in(folders: Sequence[Path]) -> None:
    """Make the modules in these folders importable from now on, before ours; earlier folders win."""
    for name in OURS:
        if any(_holds(folder, name) for folder in folders):
            for module in [known for known in list(sys.modules) if known == name or known.startswith(f"{name}.")]:
                del sys.modules[module]
    sys.path[:0] = [str(folder) for folder in folders if str(folder) not in sys.path]


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()
