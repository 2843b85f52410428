"""What the batch benchmarks found, as one JSON file; a part that is measured again replaces its former figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import orjson

from loadtest.producers.files import FileRound
from loadtest.producers.lanes import LanePair
from loadtest.producers.million import MillionRun, Sample
from loadtest.producers.packed import Packed
from loadtest.results import OpenPoint


@dataclasses.dataclass(slots=True)
class ProducerResults:
    """Every part, with the machine that it was measured on.

    Attributes:
        about: facts by part and name (`machine.about`).
        files: rounds by model.
        packed: by rows per record.
        lanes: pairs of points.
        million: the run.
    """

    about: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    files: dict[str, list[FileRound]] = dataclasses.field(default_factory=dict)
    packed: list[Packed] = dataclasses.field(default_factory=list)
    lanes: list[LanePair] = dataclasses.field(default_factory=list)
    million: MillionRun | None = None

    def save(self, path: Path) -> None:
        """Write it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    @classmethod
    def load(cls, path: Path) -> ProducerResults:
        """Read what `save` wrote; empty without a file."""
        if not path.exists():
            return cls()
        raw = orjson.loads(path.read_bytes())
        million = raw["million"]
        return cls(
            raw["about"],
            {model: [FileRound(**one) for one in rounds] for model, rounds in raw["files"].items()},
            [Packed(**one) for one in raw["packed"]],
            [_pair(one) for one in raw["lanes"]],
            None if million is None else _million(million),
        )


def _pair(raw: dict[str, Any]) -> LanePair:
    return LanePair(**raw | {name: OpenPoint(**raw[name]) for name in ("alone", "beside")})


def _million(raw: dict[str, Any]) -> MillionRun:
    samples = [Sample(**sample) for sample in raw["samples"]]
    return MillionRun(**raw | {"samples": samples, "events": [(at, name) for at, name in raw["events"]]})
