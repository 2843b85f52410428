"""Input files of batch runs: rows of a benchmark model, drawn from a fixed seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from loadtest.models import ALL
from loadtest.payloads import draw

_DISTINCT: Final = 512
"""Different rows; a file repeats them."""


def arrays(model: str, rows: int, seed: int = 0) -> dict[str, Any]:
    """`rows` random rows of a model's inputs: arrays by name, the first dimension is the rows."""
    random = np.random.default_rng(seed)
    return {spec.name: np.concatenate([draw(spec, random) for _ in range(rows)]) for spec in ALL[model].inputs}


def write_jsonl(path: Path, model: str, rows: int) -> Path:
    """A JSONL file of `rows` lines, one object of one row each, unless it exists; returns its path."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = arrays(model, min(rows, _DISTINCT))
    lines = [
        orjson.dumps({name: values[row] for name, values in drawn.items()}, option=orjson.OPT_SERIALIZE_NUMPY)
        for row in range(min(rows, _DISTINCT))
    ]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        whole, rest = divmod(rows, len(lines))
        block = b"\n".join(lines) + b"\n"
        for _ in range(whole):
            file.write(block)
        if rest:
            file.write(b"\n".join(lines[:rest]) + b"\n")
    partial.replace(path)
    return path
