"""A killed checker leaves nothing behind: processes of a run end with it, whatever session they are in."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from penstock.verify.fleet import watchdog


def test_processes_of_a_run_end_when_its_checker_does(tmp_path: Path) -> None:
    token, folder = uuid.uuid4().hex, tmp_path / "logs"
    folder.mkdir()
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    environ = os.environ | {watchdog.VARIABLE: token}
    with (
        subprocess.Popen(sleeper, env=environ, start_new_session=True) as mine,
        subprocess.Popen(sleeper, env=os.environ | {watchdog.VARIABLE: "another"}) as other,
    ):
        guard = watchdog.start(token, folder)
        assert guard.stdin is not None
        assert [process.pid for process in watchdog.of_run(token)] == [mine.pid]

        guard.stdin.close()  # as the system does when the checker is killed

        assert mine.wait(30) < 0
        guard.wait(30)
        assert other.poll() is None
        assert not folder.exists()
        other.kill()
