"""The worker and its supervisor as real processes, on a transport of their own: they serve no calls, but start and stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from tests.workers.fleet import write_model

ROOT = Path(__file__).parents[2]


async def start(*command: str, **environment: str) -> Process:
    settings = {"PENSTOCK_METRICS_PORT": "0", "PENSTOCK_LOG_FORMAT": "json", **environment}
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, env=os.environ | settings, stdout=PIPE, stderr=PIPE
    )


async def read_until(process: Process, text: bytes) -> bytes:
    """Its output up to and including the line with this text."""
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(30):
        while text not in said:
            line = await process.stderr.readline()
            assert line, said.decode()
            said += line
    return said


async def test_a_worker_process_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    process = await start("-m", "workers", PENSTOCK_MODEL_REPOSITORY=str(tmp_path))
    await read_until(process, b"worker ready")
    process.send_signal(signal.SIGTERM)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_a_worker_that_cannot_load_its_models_says_why_and_ends(tmp_path: Path) -> None:
    write_model(tmp_path, "m", 'backend: "nothing"')
    process = await start("-m", "workers", PENSTOCK_MODEL_REPOSITORY=str(tmp_path))
    _, said = await process.communicate()
    assert process.returncode == 2
    assert said.splitlines()[-1].startswith(b"penstock worker: model 'm' version 1 cannot be loaded: ")


async def test_a_wrong_setting_is_named() -> None:
    process = await start("-m", "workers", PENSTOCK_PARTITIONS="several")
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"PENSTOCK_PARTITIONS is 'several'" in said


async def test_a_supervised_worker_ends_with_its_supervisor(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    script = f"""
import asyncio, sys
from pathlib import Path
from protocol.runtime import logs
from protocol.transport.settings import TransportSettings
from workers.settings import WorkerSettings
from workers.supervision.supervisor import supervise
logs.configure("json")
settings = WorkerSettings(model_repository=(Path({str(tmp_path)!r}),), metrics_port=0)
sys.exit(asyncio.run(supervise(settings, TransportSettings())))
"""
    process = await start("-c", script)
    await read_until(process, b"worker ready")
    process.send_signal(signal.SIGTERM)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_a_worker_whose_supervisor_is_gone_drains_and_ends(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    environment = {
        "PENSTOCK_MODEL_REPOSITORY": str(tmp_path),
        "PENSTOCK_HEARTBEAT_FD": str(writer),
        "PENSTOCK_METRICS_PORT": "",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers", cwd=ROOT, env=os.environ | environment, stderr=PIPE, pass_fds=(writer,)
    )
    os.close(writer)
    await read_until(process, b"worker ready")
    os.close(reader)
    async with asyncio.timeout(20):
        _, said = await process.communicate()
    assert b"the supervisor is gone" in said
    assert process.returncode == 0
