"""How many threads the libraries of a child use: by default each would start one per core of the machine.

Set before a model's code is imported, since most libraries read their variable on import. NumPy's OpenBLAS is loaded earlier, with
the fork server, and is set by a call. The administrator's own settings stay.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final

VARIABLES: Final = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
"""For OpenMP (torch and scikit-learn among others), MKL, OpenBLAS, BLIS, NumExpr, and of libraries written in Rust (tokenizers)."""
_MAPS: Final = Path("/proc/self/maps")
_NAMES: Final = [
    f"{prefix}openblas_%s_num_threads{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64_")
]
"""Builds of OpenBLAS may add a prefix or a suffix to their functions' names."""


def limit(threads: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit the libraries of this process to this many threads, unless their variables are set."""
    stated = any(environment.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
    for name in VARIABLES:
        environment.setdefault(name, str(threads))
    if not stated:
        for function in _functions("set"):
            function(ctypes.c_int(threads))


def openblas_threads() -> list[int]:
    """The number of threads of each loaded OpenBLAS."""
    return [function() for function in _functions("get")]


def _functions(what: str) -> Iterator[Any]:
    """The function of each OpenBLAS in this process; none except on Linux."""
    paths = set()
    with contextlib.suppress(OSError):
        paths = {line.split()[-1] for line in _MAPS.read_text().splitlines() if "openblas" in line.lower()}
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(path)
            yield from [getattr(library, name % what) for name in _NAMES if hasattr(library, name % what)][:1]
