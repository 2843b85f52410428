"""The modules of a model's author come before this program's own: in a child, `import protocol` beside model.py means that file.

Called once everything of ours is imported: our modules know each other already and need no names in `sys.modules` any more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

OURS: Final = ("protocol", "workers", "gateway", "penstock", "loadtest")
"""Our top-level packages: names that an author may well choose, too."""


def give_way(folders: Sequence[Path]) -> None:
    """Make the modules in these folders importable, the first before the others and all of them before ours, from now on."""
    for name in OURS:
        if any(_holds(folder, name) for folder in folders):
            for module in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
                del sys.modules[module]
    sys.path[:0] = [str(folder) for folder in folders if str(folder) not in sys.path]


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()
