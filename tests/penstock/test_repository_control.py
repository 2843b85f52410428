"""Loading and unloading over HTTP, on the fleet in one process."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from gateway.settings import GatewaySettings
from penstock.one_process import OneProcess
from protocol.transport.settings import TransportSettings
from tests.workers.fleet import IDENTITY, write_model
from workers.settings import WorkerSettings

BROKEN = IDENTITY.replace('"identity"', '"no-such-backend"')
CONFIG = {
    "backend": "identity",
    "max_batch_size": 3,
    "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [-1]}],
}


class Caller:
    """Calls one gateway."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def load(self, model: str, parameters: Mapping[str, Any] | None = None) -> httpx.Response:
        body = {} if parameters is None else {"parameters": dict(parameters)}
        return await self.client.post(f"/v2/repository/models/{model}/load", json=body)

    async def unload(self, model: str) -> httpx.Response:
        return await self.client.post(f"/v2/repository/models/{model}/unload")

    async def index(self) -> list[dict[str, Any]]:
        return (await self.client.post("/v2/repository/index")).json()  # type: ignore[no-any-return]

    async def config(self, model: str) -> dict[str, Any]:
        return (await self.client.get(f"/v2/models/{model}/config")).json()  # type: ignore[no-any-return]

    async def status(self, model: str) -> dict[str, Any]:
        return (await self.client.get(f"/v2/repository/models/{model}/status")).json()  # type: ignore[no-any-return]

    async def infer(self, model: str) -> httpx.Response:
        body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
        return await self.client.post(f"/v2/models/{model}/infer", json=body)


@contextlib.asynccontextmanager
async def serving(folder: Path, data: Path | None = None, **settings: Any) -> AsyncIterator[Caller]:
    chosen: dict[str, Any] = {"model_control_mode": "explicit", "model_cache": folder.parent / "cache"}
    fleet = OneProcess(
        GatewaySettings(http_port=0, metrics_port=None),
        WorkerSettings(model_repository=(folder,), unload_grace=5.0, **chosen | settings),
        TransportSettings(data_dir=data),
    )
    await fleet.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{fleet.gateway.port}", timeout=30.0) as client:
            yield Caller(client)
    finally:
        await fleet.stop()


async def test_a_model_is_loaded_called_and_unloaded(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    async with serving(tmp_path / "models") as caller:
        assert await caller.index() == [{"name": "m"}]
        answer = await caller.load("m")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await caller.infer("m")).status_code == 200
        assert await caller.index() == [{"name": "m", "version": "1", "state": "READY"}]
        answer = await caller.unload("m")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await caller.infer("m")).status_code == 404
        assert (await caller.load("m")).status_code == 200
        assert (await caller.infer("m")).status_code == 200


async def test_what_triton_says(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    write_model(tmp_path / "models", "broken", BROKEN)
    async with serving(tmp_path / "models") as caller:
        answer = await caller.load("missing")
        assert answer.status_code == 500
        assert answer.json() == {"error": "failed to load 'missing', failed to poll from model repository"}
        assert (await caller.unload("missing")).status_code == 200
        answer = await caller.load("broken")
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("load failed for model 'broken': version 1 is at UNAVAILABLE state: ")
        assert answer.json()["error"].endswith(";\n")
        (entry,) = [entry for entry in await caller.index() if entry["name"] == "broken"]
        assert entry["state"] == "UNAVAILABLE"
        assert "no-such-backend" in entry["reason"]
        answer = await caller.client.post("/v2/repository/somewhere/models/m/load")
        assert (answer.status_code, answer.json()["error"]) == (501, "'repository_name' specification is not supported")
        assert (await caller.client.post("/v2/repository/models/m/reload")).status_code == 404


async def test_other_control_modes_take_no_loads(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    async with serving(tmp_path / "models", model_control_mode="none") as caller:
        for answer in (await caller.load("m"), await caller.unload("m")):
            assert answer.status_code == 503
            assert answer.json()["error"] == "explicit model load / unload is not allowed if polling is enabled"


async def test_a_configuration_stays_until_the_model_is_unloaded(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    async with serving(tmp_path / "models") as caller:
        assert (await caller.load("m", {"config": json.dumps(CONFIG)})).status_code == 200
        assert (await caller.config("m"))["max_batch_size"] == 3
        await caller.load("m")
        assert (await caller.config("m"))["max_batch_size"] == 3
        await caller.unload("m")
        await caller.load("m")
        assert (await caller.config("m"))["max_batch_size"] == 8


async def test_files_of_a_call_make_a_model(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    code = b"""
class Model:
    inputs = {"X": ("FP32", [-1])}
    outputs = {"Y": ("FP32", [-1])}
    max_batch_size = 4
    def predict(self, X):
        return {"Y": X + 41}
"""
    parameters = {"config": '{"backend": "python"}', "file:7/model.py": base64.b64encode(code).decode()}
    async with serving(tmp_path / "models", tmp_path / "data") as caller:
        assert (await caller.load("brought", parameters)).text == ""
        assert (await caller.infer("brought")).json()["outputs"][0]["data"] == [42.0]
        assert (await caller.infer("brought")).json()["model_version"] == "7"
    async with serving(tmp_path / "models", tmp_path / "data") as caller:
        assert (await caller.infer("brought")).json()["outputs"][0]["data"] == [42.0]
        broken = dict(parameters) | {"file:7/model.py": base64.b64encode(b"nonsense(").decode()}
        assert (await caller.load("brought", broken)).status_code == 400
        assert (await caller.infer("brought")).json()["outputs"][0]["data"] == [42.0]
    async with serving(tmp_path / "models", tmp_path / "data") as caller:
        assert (await caller.infer("brought")).json()["outputs"][0]["data"] == [42.0], "what failed was taken back"
        await caller.unload("brought")
    async with serving(tmp_path / "models", tmp_path / "data") as caller:
        assert (await caller.infer("brought")).status_code == 404
