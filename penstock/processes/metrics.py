"""The sums of the acceptor processes as a Prometheus collector, and what the parent itself counts."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample as PrometheusSample

from penstock.processes.sums import Family, Sample, Sums


class SumCollector(Collector):
    """The metrics of a gateway of several processes.

    Attributes:
        registry: it serves them.
        sums: of the processes.
        restarts: deaths of each process that nobody had asked for.
        ready: which processes take calls.
    """

    def __init__(self, registry: CollectorRegistry, processes: int) -> None:
        self.registry = registry
        self.sums = Sums()
        self.restarts = [0] * processes
        self.ready = [False] * processes
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """All metric families with their current values."""
        for family in self.sums.families():
            metric = Metric(family.name, family.text, family.kind)
            metric.samples = [PrometheusSample(name, dict(labels), value) for name, labels, value in family.samples]
            yield metric
        yield GaugeMetricFamily(
            "penstock_gateway_processes", "Acceptor processes that take calls.", float(sum(self.ready))
        )
        restarts = CounterMetricFamily(
            "penstock_gateway_process_restarts",
            "Deaths of an acceptor process; it is started again.",
            labels=("process",),
        )
        answers = CounterMetricFamily(
            "penstock_gateway_process_answers",
            "Answered calls by the acceptor process that took them.",
            labels=("process",),
        )
        for number, count in enumerate(self.restarts):
            restarts.add_metric((str(number),), count)
            answers.add_metric((str(number),), self.sums.answers(number))
        yield restarts
        yield answers


def collected(registry: CollectorRegistry) -> list[Family]:
    """A registry's metrics as plain values. With many models this takes tens of milliseconds."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple([Sample(each.name, tuple(each.labels.items()), each.value) for each in metric.samples]),
        )
        for metric in registry.collect()
    ]
