"""The metrics of several processes as those of one. Pure.

Counters and histograms are added up, and those of a dead process stay in the sum, so that none goes back when a process is started
again. Gauges of living processes are added up as well (calls in flight, bytes held). Of what every process says of the whole fleet
the largest value counts: `LARGEST`, and Triton's names.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

LARGEST: Final = frozenset(
    {
        "penstock_backlog_requests",
        "penstock_backlog_rows",
        "penstock_gateway_model_digests",
        "penstock_gateway_ready",
        "penstock_gateway_store_used_ratio",
        "penstock_oldest_request_age_seconds",
        "penstock_ready_workers",
        "penstock_time_to_drain_seconds",
        "penstock_wanted_workers",
    }
)
"""Gauges of which the largest value counts: each process says the same of fleet and store, or whether it is ready."""
_FLEETS: Final = "nv_"
"""Begins the names of the fleet's totals, which each process reads from the store."""
_ADDED: Final = frozenset({"counter", "histogram", "summary"})
_ANSWERS: Final = frozenset({"penstock_gateway_requests_total", "penstock_gateway_batch_requests_total"})

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One value of a metric."""

    name: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """A metric with all its samples.

    Attributes:
        kind: Prometheus' type, such as "counter".
    """

    name: str
    text: str
    kind: str
    samples: tuple[Sample, ...]


def plain(families: Iterable[Family]) -> list[Any]:
    """Families as plain data, for `families_of`."""
    return [tuple(family) for family in families]


def families_of(data: Sequence[Any]) -> list[Family]:
    """The inverse of `plain`, after a journey as msgpack."""
    return [
        Family(
            name,
            text,
            kind,
            tuple(Sample(of, tuple((k, v) for k, v in labels), value) for of, labels, value in samples),
        )
        for name, text, kind, samples in data
    ]


class Sums:
    """The newest metrics of each living process, and the sums of dead ones."""

    def __init__(self) -> None:
        self._living: dict[int, list[Family]] = {}
        self._dead: dict[str, Family] = {}
        self._dead_answers: collections.Counter[int] = collections.Counter()

    def update(self, process: int, families: list[Family]) -> None:
        """Take the newest metrics of a living process."""
        self._living[process] = families

    def retire(self, process: int) -> None:
        """A process has died: its counters stay, its gauges are gone."""
        self._dead_answers[process] += _answers(self._living.get(process, ()))
        left = self._living.pop(process, ())
        added = [family for family in left if family.kind in _ADDED and not family.name.startswith(_FLEETS)]
        self._dead = {family.name: family for family in _sum([self._dead.values(), added])}

    def families(self) -> list[Family]:
        """All metrics, in the order in which the processes named them."""
        return _sum([*self._living.values(), self._dead.values()])

    def answers(self, process: int) -> int:
        """The calls that a process and its dead predecessors have answered."""
        return self._dead_answers[process] + _answers(self._living.get(process, ()))


def _answers(families: Iterable[Family]) -> int:
    return int(sum(each.value for family in families for each in family.samples if each.name in _ANSWERS))


def _sum(sources: Iterable[Iterable[Family]]) -> list[Family]:
    first: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for family in (family for source in sources for family in source):
        first.setdefault(family.name, family)
        total = values.setdefault(family.name, {})
        largest = family.name in LARGEST or family.name.startswith(_FLEETS)
        for name, labels, value in family.samples:
            key = name, labels
            before = total.get(key)
            if before is None:
                total[key] = value
            else:
                total[key] = max(before, value) if largest else before + value
    return [
        family._replace(samples=tuple([Sample(*key, value) for key, value in values[family.name].items()]))
        for family in first.values()
    ]
