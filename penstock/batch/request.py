"""What `penstock batch submit` is asked for, and what can be checked of it without a fleet."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from penstock.batch.packing import MAX_ROWS
from penstock.batch.sources import STANDARD, check_input, kind_of
from penstock.batch.writers import check_place
from protocol.errors import ConfigError, InvalidArgument, quoted


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; see `penstock batch submit --help`.

    Attributes:
        model: its name.
        version: decimal; "" is the highest that is ready.
        source, target, errors: paths; `-` is standard input or output, "" puts errors in the output.
        input_format: "" by the name.
        maps: texts `COLUMN=INPUT`.
        image_columns: texts `COLUMN` or `COLUMN=INPUT`.
        mean, std: of images.
        rows: of a record; 0 chooses.
        window: rows in flight; 0 chooses.
        unordered, force, waits: flags.
    """

    model: str
    source: str
    target: str
    version: str = ""
    errors: str = ""
    input_format: str = ""
    maps: tuple[str, ...] = ()
    image_columns: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    rows: int = 0
    window: int = 0
    unordered: bool = False
    force: bool = False
    waits: bool = True

    @property
    def parquet(self) -> bool:
        """Whether the output is Parquet."""
        return self.target != STANDARD and Path(self.target).suffix.lower() in (".parquet", ".pq")

    def description(self) -> dict[str, Any]:
        """What a job that goes on must have in common with its begin."""
        return {
            "model": self.model, "source": _absolute(self.source), "target": _absolute(self.target),
            "errors": _absolute(self.errors), "format": kind_of(self.source, self.input_format), "maps": list(self.maps),
            "images": list(self.image_columns), "mean": list(self.mean), "std": list(self.std), "unordered": self.unordered,
        }  # fmt: skip


def _absolute(path: str) -> str:
    return path if path in ("", STANDARD) else str(Path(path).resolve())


def _same(path: str, other: str) -> bool:
    if path in ("", STANDARD) or other in ("", STANDARD):
        return False
    here, there = Path(path), Path(other)
    if here.exists() and there.exists():
        return here.is_file() and here.samefile(there)
    return here.resolve() == there.resolve()


def check_request(request: Request) -> None:
    """Check what can be checked without a fleet.

    Raises:
        FleetError: it cannot work; the message says why.
    """
    check_input(request.source, kind_of(request.source, request.input_format))
    check_place(request.target, "the output")
    check_place(request.errors, "--errors")
    places = {"the input": request.source, "the output": request.target, "--errors": request.errors}
    for (first, path), (second, other) in itertools.combinations(places.items(), 2):
        if _same(path, other):
            raise ConfigError(f"{first} and {second} are the same file {quoted(path)}")
    if request.parquet:
        from penstock.batch.parquet import arrow

        arrow()
    if not 0 <= request.rows <= MAX_ROWS:
        raise InvalidArgument(f"--rows-per-record must be 1 to {MAX_ROWS}")
