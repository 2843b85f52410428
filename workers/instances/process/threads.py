"""The share of the CPU cores that the libraries of a child use: each would start as many threads as the machine has cores.

Set before a model's code is imported, for most libraries read their variable then. NumPy's OpenBLAS is loaded by then (with the
template) and is told by a call. What the administrator has chosen stays.
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
"""Of OpenMP (torch and scikit-learn among others), MKL, OpenBLAS, BLIS, NumExpr, and of libraries written in Rust (tokenizers)."""
_MAPS: Final = Path("/proc/self/maps")
_NAMES: Final = [
    f"{prefix}openblas_%s_num_threads{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64_")
]
"""A build of OpenBLAS may have put something before or behind its functions' names."""


def limit(threads: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Have the libraries of this process use so many threads, where their variables say nothing yet."""
    stated = any(environment.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
    for name in VARIABLES:
        environment.setdefault(name, str(threads))
    if not stated:
        for function in _functions("set"):
            function(ctypes.c_int(threads))


def of_openblas() -> list[int]:
    """The threads of each OpenBLAS that is loaded."""
    return [function() for function in _functions("get")]


def _functions(what: str) -> Iterator[Any]:
    """Of each OpenBLAS in this process; none elsewhere than on Linux."""
    paths = set()
    with contextlib.suppress(OSError):
        paths = {line.split()[-1] for line in _MAPS.read_text().splitlines() if "openblas" in line.lower()}
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(path)
            yield from [getattr(library, name % what) for name in _NAMES if hasattr(library, name % what)][:1]
