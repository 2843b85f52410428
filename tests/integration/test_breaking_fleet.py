"""The benchmark's run of a million lines, shorter: a worker is killed, the gateway restarted, the submitter interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest import models
from loadtest.producers import million

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]

LINES = 300_000


@pytest.mark.usefixtures("kafka_installation")
def test_every_line_is_answered_once_in_order_while_the_fleet_breaks(tmp_path: Path) -> None:
    run = million.run(models.write_repository(tmp_path, ["addsub"]), LINES, print)

    assert run.problems == []
    assert len(run.events) == 4, "everything was broken that should be"
    assert run.samples[-1].lines <= LINES
    assert run.peak_mib["redis used_memory"] < 100


def test_a_wrong_output_is_found(tmp_path: Path) -> None:
    source = models_rows(tmp_path, 4)
    good = [b'{"line":%d,"outputs":{"OUTPUT0":[3.0],"OUTPUT1":[-1.0]}}\n' % line for line in range(1, 5)]

    def told(lines: list[bytes]) -> str:
        (tmp_path / "out").write_bytes(b"".join(lines))
        return "; ".join(million.problems(source, tmp_path / "out"))

    assert told(good) == ""
    assert "1 lines without an answer" in told(good[:3])
    assert "1 lines too many" in told([*good, good[3]])
    assert "is the answer to line 3" in told([good[0], good[2], good[1], good[3]])
    assert "wrong answer" in told([good[0].replace(b"3.0", b"4.0"), *good[1:]])


def models_rows(folder: Path, rows: int) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(b'{"INPUT0":[1.0],"INPUT1":[2.0]}\n' * rows)
    return path
