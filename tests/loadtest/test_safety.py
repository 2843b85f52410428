from __future__ import annotations

from pathlib import Path

from loadtest import report, safety


def test_every_part_of_the_safety_has_its_cost(tmp_path: Path) -> None:
    costs = safety.measure(tmp_path, 0.02)
    assert [(cost.what, cost.size, list(cost.cpu_us)) for cost in costs] == [
        ("journal", 1, ["worker"]),
        ("journal", 32, ["worker"]),
        ("heartbeat", 0, ["worker"]),
        ("batch of a Python model in a thread", 1, ["worker"]),
        ("batch of a Python model in a process", 1, ["worker", "child"]),
        ("batch of a Python model in a thread", 32, ["worker"]),
        ("batch of a Python model in a process", 32, ["worker", "child"]),
    ]
    assert all(cost.cpu_us["worker"] > 0 for cost in costs)  # a child's clock ticks every 10 ms
    assert "| journal | 32 | worker |" in report.safety_table(costs)
