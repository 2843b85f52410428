"""A model's own `is_ready`: in a thread, in a child, and as callers see it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from gateway.settings import GatewaySettings
from penstock.client import AsyncClient
from penstock.one_process import OneProcess
from protocol.heartbeat_codec import decode_heartbeat, encode_heartbeat
from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.transport.settings import TransportSettings
from tests.workers.children import CONFIG, OBEDIENT, running, version_of
from tests.workers.fleet import until, write_model
from tests.workers.test_python_models import BOTH, chosen
from workers.instances import readiness
from workers.instances.readiness import Readiness, ask
from workers.settings import WorkerSettings

NOT_READY = "Model 'm' is not ready (user-defined check failed)."
TOLD = """
    import pathlib
    HERE = pathlib.Path(__file__).parent

    class Model:
        {kind}def is_ready(self):
            return not (HERE / "busy").exists()

        def predict(self, X):
            return {{"Y": X}}
"""


async def _true() -> bool:
    return True


async def _text() -> str:
    return "yes"


def _raise() -> bool:
    raise KeyError("table")


async def _slow() -> bool:
    await asyncio.Event().wait()
    return True


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (lambda: True, ""),
        (lambda: False, NOT_READY),
        (_true, ""),
        (_text, "is_ready() must return a boolean value, and that of model 'm' returned str"),
        (lambda: 1, "is_ready() must return a boolean value, and that of model 'm' returned int"),
        (lambda: None, "is_ready() must return a boolean value, and that of model 'm' returned NoneType"),
        (_raise, "is_ready() of model 'm' failed: KeyError: 'table'"),
    ],
)
def test_the_answer_in_tritons_words(check: Callable[[], object], reason: str) -> None:
    assert ask(check, "m").startswith(reason)
    assert bool(ask(check, "m")) == bool(reason)


def test_a_check_that_does_not_end_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "TIMEOUT", 0.0)
    state = Readiness("m")
    assert state.problem() == ""
    state.began()
    assert state.problem() == "is_ready() of model 'm' timed out after 0 seconds"
    state.ended("")
    assert state.problem() == ""
    assert ask(_slow, "m") == "is_ready() of model 'm' timed out after 0 seconds"


@BOTH
@pytest.mark.parametrize("kind", ["", "async "])
async def test_the_instance_follows_its_model_and_goes_on_answering(tmp_path: Path, isolation: str, kind: str) -> None:
    version = chosen(version_of(tmp_path, TOLD.format(kind=kind)), isolation)
    busy = version.path.parent / "busy"
    busy.touch()
    async with running(version) as model:
        (executor,) = model.loaded.executors
        assert executor.problem() == NOT_READY  # at once: the first check is part of the load
        assert await model.value(1.0) == [1.0]
        busy.unlink()
        await until(lambda: not executor.problem(), "ready")


async def test_a_child_that_died_is_not_ready_until_another_one_has_loaded_the_model(tmp_path: Path) -> None:
    version = version_of(tmp_path, OBEDIENT)
    broken = version.path.parent / "exit-at-load"
    async with running(version) as model:
        assert model.child.problem() == ""
        broken.touch()
        pid = model.child.pid
        assert pid is not None
        os.kill(pid, 9)
        await until(model.child.problem, "the death")
        assert model.child.problem() == "instance 'm_0_0' has no process: it died and is being restarted"
        broken.unlink()
        await until(lambda: not model.child.problem(), "the restart")
        assert await model.value(1.0) == [2.0]


async def test_models_without_a_check_have_no_thread_for_it(tmp_path: Path) -> None:
    async with running(chosen(version_of(tmp_path, OBEDIENT), "thread")) as model:
        assert model.loaded.executors[0].problem() == ""
        assert "is_ready" not in [thread.name for thread in threading.enumerate()]


def test_the_reason_is_on_the_wire_only_where_there_is_one() -> None:
    loads = (ModelLoad("m", "1", ModelState.READY, digest="d", unready="why"), ModelLoad("n", "1", ModelState.READY))
    beat = Heartbeat("w", "i", "h", 1, 0.0, loads)
    assert decode_heartbeat(encode_heartbeat(beat)) == beat


async def test_callers_who_ask_are_told_and_those_who_call_are_served(tmp_path: Path) -> None:
    code = "\n".join(line[4:] for line in TOLD.format(kind="").splitlines())
    folder = write_model(tmp_path, "m", CONFIG, {"model.py": code}) / "1"
    (folder / "busy").touch()
    fleet = OneProcess(
        GatewaySettings(http_port=0, metrics_port=None),
        WorkerSettings(model_repository=(tmp_path,), heartbeat_interval=0.05),
        TransportSettings(),
    )
    await fleet.start()
    try:
        url = f"http://127.0.0.1:{fleet.gateway.port}"
        async with AsyncClient(url) as client, httpx.AsyncClient(base_url=url) as http:

            async def status(wanted: int, path: str = "/v2/models/m/ready") -> str:
                async with asyncio.timeout(20):
                    while (answer := await http.get(path)).status_code != wanted:
                        await asyncio.to_thread(os.sched_yield)
                return answer.text

            assert NOT_READY in await status(503)
            assert NOT_READY in await status(503, "/v2/models/m/versions/1/ready")
            answer = await client.infer("m", {"X": np.ones((1, 1), np.float32)})
            assert answer.outputs["Y"].tolist() == [[1.0]]
            (folder / "busy").unlink()
            await status(200)
            assert (await http.get("/v2/health/ready")).status_code == 200
    finally:
        await fleet.stop()
