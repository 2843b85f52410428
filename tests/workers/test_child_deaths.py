"""The fate of a batch and of its instance when the process ends; nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from protocol.errors import ConfigError, ModelFailed
from tests.workers.children import (
    CONFIG,
    EXIT,
    HANG,
    OBEDIENT,
    SEGFAULT,
    Running,
    loader,
    request,
    running,
    version_of,
)  # fmt: skip
from workers.instances.job import InstanceDied, Job

ROOT = Path(__file__).parents[2]


async def died(model: Running, job: Job) -> InstanceDied:
    """The job comes back with its instance's death, and the next child answers what waited meanwhile."""
    model.submit(request(20.0))
    first = await model.back()
    assert first is job
    assert isinstance(first.error, InstanceDied)
    assert first.compute_end >= first.compute_start > 0
    second = await model.back()
    assert second.error is None
    assert second.raw[0][0].array().tolist() == [[21.0]]
    return first.error


async def hanging(model: Running, folder: Path) -> int:
    """The process that runs a hanging batch, once it does."""
    async with asyncio.timeout(20):
        while not ((folder / "running").exists() and (text := (folder / "running").read_text())):
            await asyncio.to_thread(os.sched_yield)
    assert int(text) == model.child.pid
    return int(text)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.to_thread(os.sched_yield)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or before it was read
        return False


def parent_of(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_model_that_exits_costs_its_batch_and_nothing_else(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        error = await died(model, model.submit(request(EXIT), request(1.0)))

        assert (error.exit_code, error.signal, error.hung) == (3, None, False)
        assert re.fullmatch(
            r"its process exited with code 3 while it ran a batch \(/.*/model\.py:\d+, in predict\); a model must raise an "
            r"exception and not end its process \(os\._exit, or exit in a library\)",
            error.message,
        )
        assert model.child.restarts == 1


async def test_a_segmentation_fault_is_named_and_its_place_is_in_the_log(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with running(version_of(tmp_path)) as model:
            error = await died(model, model.submit(request(SEGFAULT)))

    assert (error.exit_code, error.signal) == (None, signal.SIGSEGV)
    assert "SIGSEGV" in error.message
    assert re.search(r"model\.py\", line \d+ in predict", error.trace)
    assert re.fullmatch(r".*/model\.py:\d+, in predict", error.place)
    assert error.place in error.message
    (record,) = [line for line in logs if line["log_level"] == "error"]
    assert record["exception"] == error.trace
    assert not any("Fatal Python error" in line["event"] for line in logs)
    (said,) = [line for line in logs if line["event"] == "about to crash"]
    assert (said["model"], said["version"], said["instance"]) == ("m", 1, "m_0_0")


async def test_a_kill_from_outside_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    version = version_of(tmp_path)
    async with running(version) as model:
        job = model.submit(request(HANG))
        os.kill(await hanging(model, version.path.parent), signal.SIGKILL)

        error = await died(model, job)
        assert (error.signal, error.hung) == (signal.SIGKILL, False)
        assert "when memory runs out: see dmesg" in error.message


async def test_a_hung_child_is_killed_on_demand(tmp_path: Path) -> None:
    version = version_of(tmp_path)
    async with running(version) as model:
        job = model.submit(request(HANG))
        await hanging(model, version.path.parent)
        model.child.kill()

        error = await died(model, job)
        assert (error.signal, error.hung) == (signal.SIGKILL, True)
        assert "hung" in error.message


async def test_killing_an_idle_child_blames_no_batch(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        for _ in range(2):
            model.child.kill()
            assert await model.value(1.0) == [2.0]
        pid = model.child.pid
        assert pid is not None
        restarts = model.child.restarts
        os.kill(pid, signal.SIGKILL)  # a new child starts although no batch was sent
        await until(lambda: model.child.restarts > restarts and model.child.pid not in (None, pid))
        assert await model.value(1.0) == [2.0]


async def test_a_model_that_exits_while_it_loads_is_refused(tmp_path: Path) -> None:
    version = version_of(tmp_path, "import os\nos._exit(9)\n")
    with pytest.raises(InstanceDied, match="exited with code 9 while model 'm' was inspected"):
        await loader().load(version)
    version = version_of(tmp_path)
    (version.path.parent / "exit-at-load").touch()
    with pytest.raises(InstanceDied, match="exited with code 9 while instance 'm_0_0' was loaded"):
        await loader().load(version)


async def test_what_a_model_raises_while_it_loads_or_warms_up_is_told(tmp_path: Path) -> None:
    version = version_of(tmp_path / "a")
    (version.path.parent / "raise-at-load").touch()
    with pytest.raises(ConfigError, match=r"(?s)__init__ of model 'm' version 1 failed.*KeyError: 'weights'"):
        await loader().load(version)
    zeros = 'inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } }'
    warmup = f'model_warmup [ {{ name: "cold" batch_size: 1 {zeros} }} ]'
    code = "class Model:\n    def predict(self, X):\n        raise ValueError('too cold')\n"
    with pytest.raises(ModelFailed, match=r"failed to run warmup sample 'cold': .*message: ValueError: too cold"):
        await loader().load(version_of(tmp_path / "b", code, CONFIG + warmup))


async def test_a_model_that_cannot_be_loaded_again_is_tried_until_it_can(tmp_path: Path) -> None:
    version = version_of(tmp_path)
    async with running(version) as model:
        (version.path.parent / "raise-at-load").touch()
        job = model.submit(request(EXIT))
        assert isinstance((await model.back()).error, InstanceDied)
        del job
        late = model.job(request(5.0))
        late.not_after = 1.0  # long past when it is checked
        for each in (waiting := model.job(request(1.0)), late):
            model.child.submit(each)
        assert await model.back() is late  # it need not wait for a child
        assert late.stale
        await until(lambda: model.child.restarts >= 2)
        (version.path.parent / "raise-at-load").unlink()

        assert await model.back() is waiting
        assert waiting.error is None


async def test_closing_ends_a_hung_child_and_blames_no_batch(tmp_path: Path) -> None:
    version = version_of(tmp_path)
    async with running(version) as model:
        model.submit(request(HANG))
        pid = await hanging(model, version.path.parent)
    assert not alive(pid)
    assert model.idle


async def test_closing_finalizes_the_model(tmp_path: Path) -> None:
    code = OBEDIENT + "\n        def close(self):\n            (HERE / 'closed').touch()\n"
    version = version_of(tmp_path, code)
    async with running(version) as model:
        assert await model.value(1.0) == [2.0]
    assert (version.path.parent / "closed").exists()


async def test_neither_processes_nor_descriptors_are_left(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    version = version_of(tmp_path)
    async with running(version):
        pass
    before = descriptors()
    pids: set[int | None] = set()
    async with running(version) as model:
        for _ in range(3):
            await model.ask(request(*[1.0] * 1_000_000))
            pids.add(model.child.pid)
            await died(model, model.submit(request(EXIT)))
        pids.add(model.child.pid)
    await until(lambda: descriptors() <= before)

    assert len(pids) == 4
    assert not any(alive(pid) for pid in pids if pid is not None)


def test_a_killed_worker_takes_its_children_along_and_leaves_no_memory(tmp_path: Path) -> None:
    version_of(tmp_path)
    script = """
        import asyncio, sys
        from pathlib import Path
        from tests.workers.children import HANG, request, running
        from tests.workers.test_child_deaths import hanging
        from workers.repository.scan import scan_repositories

        async def main():
            ((version,),) = (folder.versions for folder in scan_repositories([Path(sys.argv[1])]))
            async with running(version) as model:
                await model.ask(request(*[1.0] * 1_000_000))
                model.submit(request(HANG))
                print(await hanging(model, version.path.parent), flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """
    shared = set(Path("/dev/shm").iterdir())
    line = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        child = os.pidfd_open(pid)
        assert alive(pid)
        parent.kill()
        ended = select.select([child], [], [], 20)[0]
        os.close(child)

    assert ended, "the child has outlived its worker"
    assert set(Path("/dev/shm").iterdir()) <= shared


async def test_processes_that_a_model_started_end_with_it(tmp_path: Path) -> None:
    code = """
        import os, pathlib, subprocess
        HERE = pathlib.Path(__file__).parent

        class Model:
            def predict(self, X):
                other = subprocess.Popen(["sleep", "1000"])
                (HERE / "other").write_text(str(other.pid))
                os._exit(0)
    """
    version = version_of(tmp_path, code)
    async with running(version) as model:
        job = await model.run(request(1.0))
        assert isinstance(job.error, InstanceDied)
        assert job.error.exit_code == 0
        other = int((version.path.parent / "other").read_text())
        await until(lambda: not alive(other))


async def test_the_death_of_the_fork_server_is_survived(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        forkserver = parent_of(model.child.pid)
        assert forkserver != os.getpid()
        os.kill(forkserver, signal.SIGKILL)  # and its children die with it
        await until(lambda: model.child.restarts > 0 and model.child.pid is not None)

        assert await model.value(1.0) == [2.0]
        await died(model, model.submit(request(EXIT)))


async def test_a_cuda_error_that_spoils_the_process_replaces_it(tmp_path: Path) -> None:
    code = """
        class Model:
            def predict(self, X):
                if X[0, 0] == 1:
                    raise RuntimeError("CUDA error: device-side assert triggered\\nCompile with TORCH_USE_CUDA_DSA")
                if X[0, 0] == 2:
                    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
                return {"Y": X}
    """
    async with running(version_of(tmp_path, code)) as model:
        pid = model.child.pid
        with pytest.raises(ModelFailed, match="out of memory"):
            await model.value(2.0)
        assert (model.child.pid, model.child.restarts) == (pid, 0)
        with pytest.raises(ModelFailed, match="device-side assert"):
            await model.value(1.0)
        assert await model.value(3.0) == [3.0]
        assert model.child.restarts == 1
        assert model.child.pid != pid
        with pytest.raises(InstanceDied, match="device-side assert"):
            await model.child.attempt([request(1.0)])
        assert await model.value(4.0) == [4.0]
        assert model.child.restarts == 2


async def test_a_sigterm_to_all_processes_leaves_the_end_to_the_worker(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        pid = model.child.pid
        assert pid is not None
        for each in (pid, parent_of(pid)):
            os.kill(each, signal.SIGTERM)
        assert await model.value(1.0) == [2.0]
        assert model.child.pid == pid


async def test_a_models_own_modules_come_before_ours(tmp_path: Path) -> None:
    code = """
        import numpy as np
        import protocol
        from workers import hands

        class Model:
            def __init__(self):
                protocol.STATE.append(1)

            def predict(self, X):
                import late, protocol
                return {"Y": X * np.float32(protocol.FACTOR * hands.COUNT + late.MORE + 1000 * len(protocol.STATE))}
    """
    files = {"protocol.py": "FACTOR = 10\nSTATE = []\n", "late.py": "import protocol\nMORE = protocol.FACTOR\n"}
    version = version_of(tmp_path, code, files=files)
    (version.path.parent / "workers").mkdir()
    (version.path.parent / "workers" / "__init__.py").touch()
    (version.path.parent / "workers" / "hands.py").write_text("COUNT = 2\n")
    async with running(version) as model:
        assert await model.value(1.0) == [1030.0]


async def test_the_environment_of_a_child_is_the_workers_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
        import numpy as np, os, sys

        class Model:
            def predict(self, X):
                seen = [name for name in os.environ if name.startswith("PENSTOCK_")]
                print("seen", seen, os.environ.get("PYTHONPATH"), os.environ["CUDA_VISIBLE_DEVICES"])
                return {"Y": X}
    """
    monkeypatch.setenv("PENSTOCK_KAFKA_SASL_PASSWORD", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    with capture_logs() as logs:
        async with running(version_of(tmp_path, code)) as model:
            await model.ask(request(1.0))
            await until(lambda: any(line["event"].startswith("seen") for line in logs))

    assert [line["event"] for line in logs if line["event"].startswith("seen")] == ["seen [] /somewhere 3,1"]
