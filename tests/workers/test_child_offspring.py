"""Several children that die together, and processes that a child has started: they end with it, even detached ones."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.workers.children import CONFIG, request, running, version_of
from tests.workers.test_child_deaths import ROOT, alive, until
from workers.instances.job import InstanceDied
from workers.instances.process.executor import ChildExecutor

TOGETHER = """
    import os, pathlib
    HERE = pathlib.Path(__file__).parent

    class Model:
        def predict(self, X):
            if X[0, 0] == -1:
                (HERE / f"here-{os.getpid()}").touch()
                while len(list(HERE.glob("here-*"))) < 4:
                    os.sched_yield()
                os._exit(3)
            return {"Y": X}
"""
DAEMON = """
    import os, pathlib
    HERE = pathlib.Path(__file__).parent

    def detach(name):
        # A process that nothing leads to: its parent is gone, and it has a session of its own.
        if os.fork():
            os.wait()
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        (HERE / "new").write_text(str(os.getpid()))
        (HERE / "new").rename(HERE / name)
        os.execvp("sleep", ["sleep", "1000"])

    class Model:
        def __init__(self):
            detach(f"at-load-{os.getpid()}")

        def predict(self, X):
            detach("at-run")
            while not (HERE / "at-run").exists():
                os.sched_yield()
            if X[0, 0] < 0:
                os._exit(3)
            return {"Y": X}
"""


async def test_instances_that_die_together_cost_nobody_else_his_process(tmp_path: Path) -> None:
    version = version_of(tmp_path, TOGETHER, CONFIG + "instance_group [ { count: 5 } ]")
    async with running(version) as model:
        executors = model.loaded.executors
        idle = executors[4]
        assert isinstance(idle, ChildExecutor)
        pid = idle.pid
        for _ in range(3):
            for file in version.path.parent.glob("here-*"):
                file.unlink()
            for executor in executors[:4]:
                model.submit(request(-1.0), executor=executor)
            errors = [(await model.back()).error for _ in range(4)]
            assert [error.exit_code for error in errors if isinstance(error, InstanceDied)] == [3] * 4
            for executor in executors:
                assert await model.ask(request(1.0), executor=executor)

        assert (idle.pid, idle.restarts) == (pid, 0)


@pytest.mark.parametrize("how", ["exits", "is killed", "is unloaded"])
async def test_processes_that_a_model_has_detached_end_with_it(tmp_path: Path, how: str) -> None:
    version = version_of(tmp_path, DAEMON)
    async with running(version) as model:
        at_load = version.path.parent / f"at-load-{model.child.pid}"
        await until(at_load.exists)  # the model does not wait for what it detaches
        await model.run(request(-1.0 if how == "exits" else 1.0))
        pids = [int(file.read_text()) for file in (at_load, version.path.parent / "at-run")]
        if how != "exits":
            assert all(alive(pid) for pid in pids)
        if how == "is killed":
            model.child.kill()
        if how != "is unloaded":
            await until(lambda: not any(alive(pid) for pid in pids))
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_what_one_child_has_detached_outlives_the_death_of_another(tmp_path: Path) -> None:
    version = version_of(tmp_path, DAEMON, CONFIG + "instance_group [ { count: 2 } ]")
    async with running(version) as model:
        first, second = model.loaded.executors
        assert isinstance(second, ChildExecutor)
        note = version.path.parent / f"at-load-{second.pid}"
        await until(note.exists)  # the model does not wait for what it detaches
        others = int(note.read_text())
        job = await model.run(request(-1.0), executor=first)
        assert isinstance(job.error, InstanceDied)
        gone = int((version.path.parent / "at-run").read_text())
        await until(lambda: not alive(gone))

        assert alive(others)
        assert second.restarts == 0


def test_a_killed_worker_takes_along_what_a_model_has_detached(tmp_path: Path) -> None:
    version_of(tmp_path, DAEMON)
    script = """
        import asyncio, sys
        from pathlib import Path
        from tests.workers.children import request, running
        from workers.repository.scan import scan_repositories

        async def main():
            ((version,),) = (folder.versions for folder in scan_repositories([Path(sys.argv[1])]))
            async with running(version) as model:
                await model.ask(request(1.0))
                print((version.path.parent / "at-run").read_text(), flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """
    line = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        detached = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        ended = select.select([detached], [], [], 20)[0]
        if not ended:
            signal.pidfd_send_signal(detached, signal.SIGKILL)
        os.close(detached)

    assert ended, "what the model has detached has outlived the worker"
