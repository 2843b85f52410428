"""Loading and unloading over HTTP, on the fleet in one process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

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

    async def until(self, model: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The one worker's part of the status, once it meets the condition."""
        async with asyncio.timeout(20):
            while not condition(worker := (await self.status(model))["workers"][0]):
                pass
        return worker

    async def infer(self, model: str) -> httpx.Response:
        body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
        return await self.client.post(f"/v2/models/{model}/infer", json=body)


@contextlib.asynccontextmanager
async def serving(folder: Path, data: Path | None = None, **settings: Any) -> AsyncIterator[Caller]:
    chosen: dict[str, Any] = {"model_control_mode": "explicit", "model_cache_dir": folder.parent / "cache"}
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


async def test_an_idle_model_is_evicted_and_loaded_again_by_the_next_call(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    async with serving(tmp_path / "models") as caller:
        assert (await caller.load("m", {"idle_after_s": 0.2})).status_code == 200
        worker = await caller.until("m", lambda worker: worker["state"] == "UNAVAILABLE")
        assert worker["reason"] == "evicted: no request for 0.2 s; the next one loads it again"
        answers = await asyncio.gather(*[caller.infer("m") for _ in range(5)])
        assert [answer.status_code for answer in answers] == [200] * 5
        assert (await caller.load("m", {"pinned": True})).status_code == 200
        desired = (await caller.status("m"))["desired"]
        assert (desired["pinned"], desired["idle_after_s"]) == (True, 0.0)


async def test_a_lease_that_is_not_renewed_ends(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    async with serving(tmp_path / "models") as caller:
        await caller.load("m", {"lease_s": 1000})
        assert (await caller.infer("m")).status_code == 200
        await caller.load("m", {"lease_s": 0.1})
        worker = await caller.until("m", lambda worker: worker["state"] == "UNAVAILABLE")
        assert worker["reason"] == "unloaded: its lease has ended"
        assert (await caller.infer("m")).status_code == 404
        assert (await caller.load("m")).status_code == 200
        assert (await caller.status("m"))["desired"]["lease_until"] == 0.0


async def test_only_allowed_digests_are_served(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    async with serving(tmp_path / "models") as caller:
        await caller.load("m")
        (version,) = (await caller.status("m"))["workers"][0]["versions"]
        assert (await caller.load("m", {"digests": [version["digest"]]})).status_code == 200
        write_model(tmp_path / "models", "m", IDENTITY + 'parameters { key: "a" value { string_value: "b" } }')
        answer = await caller.load("m")
        assert answer.status_code == 400
        assert "is not among the allowed ones" in answer.json()["error"]
        assert (await caller.infer("m")).status_code == 200, "the allowed files are still served"
        assert (await caller.load("m", {"digests": ["0" * 64]})).status_code == 400
        assert (await caller.infer("m")).status_code == 404, "what serves is no longer allowed"
        await caller.unload("m")
        assert (await caller.load("m")).status_code == 400, "the list outlives an unload"
        assert (await caller.load("m", {"digests": []})).status_code == 200


async def test_models_must_fit_into_the_memory(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_model(tmp_path / "models", name, files={"weights.bin": "x" * 1000})
    async with serving(tmp_path / "models", model_memory_limit=1500) as caller:
        assert (await caller.load("one")).status_code == 200
        answer = await caller.load("two")
        assert answer.status_code == 400
        assert answer.json()["error"] == (
            "load failed for model 'two': it needs 1000 bytes of memory, and 500 of 1500 are free (--model-memory-limit)"
        )
        assert (await caller.status("one"))["workers"][0]["memory"] == {"limit_bytes": 1500, "used_bytes": 1000}
        assert (await caller.load("one", {"idle_after_s": 1000})).status_code == 200
        assert (await caller.load("two")).status_code == 200
        worker = await caller.until("one", lambda worker: worker["state"] == "UNAVAILABLE")
        assert worker["reason"] == "evicted: another model needed its memory; the next request loads it again"
        await caller.unload("two")
        assert (await caller.infer("one")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{", 400, "failed to parse the request JSON buffer: "),
        (b"[]", 400, "the body must be a JSON object with 'parameters'"),
        (b'{"parameters": 3}', 400, "attempt to get members for non-object"),
        (b'{"parameters": {"x": 1}}', 400, "unexpected error on creating Triton parameter: 'x' is none of config, "),
        (b'{"parameters": {"config": 1}}', 400, "attempt to access JSON non-string as string"),
        (b'{"parameters": {"config": "{"}}', 400, "failed to load 'm', failed to poll from model repository: "),
        (b'{"parameters": {"config": "[]"}}', 400, "failed to load 'm', failed to poll from model repository: "),
        (b'{"parameters": {"config": "{\\"name\\": \\"other\\"}"}}', 400, "failed to load 'm', failed to poll"),
        (
            b'{"parameters": {"file:1/model.py": "eA=="}}',
            400,
            "failed to load 'm', failed to poll from model repository",
        ),
        (
            b'{"parameters": {"config": "{}", "file:1/model.py": "%%%"}}',
            400,
            "parameter 'file:1/model.py' is not base64",
        ),
        (b'{"parameters": {"config": "{}", "file:../x": "eA=="}}', 400, "the file path '../x' must be relative"),
        (b'{"parameters": {"config": "{}", "file:/etc/x": "eA=="}}', 400, "the file path '/etc/x' must be relative"),
        (b'{"parameters": {"config": "{}", "file:": "eA=="}}', 400, "the file path '' must be relative"),
        (
            b'{"parameters": {"config": "{}", "file:a": "", "file:a/b": ""}}',
            400,
            "the file path 'a' is also the folder",
        ),
        (b'{"parameters": {"replicas": -1}}', 400, "'replicas' is -1"),
        (b'{"parameters": {"replicas": true}}', 400, "parameter 'replicas' must be a whole number"),
        (b'{"parameters": {"lease_s": 1e400}}', 400, ""),
        (b'{"parameters": {"lease_s": "1"}}', 400, "parameter 'lease_s' must be a number"),
        (b'{"parameters": {"pinned": 1}}', 400, "parameter 'pinned' must be true or false"),
        (b'{"parameters": {"pinned": true, "lease_s": 1}}', 400, "a pinned model is never evicted"),
        (b'{"parameters": {"digests": ["x"]}}', 400, "'digests' has 'x'"),
        (b'{"parameters": {"digests": [1]}}', 400, "parameter 'digests' must be a list of texts"),
        (b'"' + b"x" * 17_000_000 + b'"', 413, "the body of this request may have at most 16777216 bytes"),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_a_call_that_is_wrong_changes_nothing(tmp_path: Path, body: bytes, status: int, text: str) -> None:
    write_model(tmp_path / "models", "m")
    async with serving(tmp_path / "models") as caller:
        answer = await caller.client.post("/v2/repository/models/m/load", content=body)
        assert answer.status_code == status
        assert answer.json()["error"].startswith(text)
        assert (await caller.status("m"))["desired"] is None


async def test_a_large_file_travels_in_parts(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    weights = random.Random(1).randbytes(10_000_000)
    code = b"""
import hashlib, pathlib
import numpy as np
class Model:
    inputs = {"X": ("FP32", [-1])}
    outputs = {"Y": ("FP32", [-1])}
    def __init__(self):
        self.size = len((pathlib.Path(__file__).parent / "weights.bin").read_bytes())
    def predict(self, X):
        return {"Y": np.full_like(X, self.size)}
"""
    files = {"file:1/model.py": code, "file:1/weights.bin": weights}
    parameters = {"config": '{"backend": "python"}'} | {
        name: base64.b64encode(content).decode() for name, content in files.items()
    }
    async with serving(tmp_path / "models") as caller:
        assert (await caller.load("large", parameters)).text == ""
        assert (await caller.infer("large")).json()["outputs"][0]["data"] == [10_000_000.0]


async def test_the_status_of_a_model_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    async with serving(tmp_path / "models") as caller:
        answer = await caller.client.get("/v2/repository/models/x/status")
        assert (answer.status_code, answer.json()) == (404, {"error": "Request for unknown model: 'x' is not found"})


async def test_what_the_settings_load_can_be_unloaded_for_good(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    async with serving(tmp_path / "models", tmp_path / "data", load_model=("*",)) as caller:
        assert (await caller.infer("m")).status_code == 200
        await caller.unload("m")
        assert (await caller.infer("m")).status_code == 404
    async with serving(tmp_path / "models", tmp_path / "data", load_model=("*",)) as caller:
        assert (await caller.infer("m")).status_code == 404
        await caller.load("m")
        assert (await caller.infer("m")).status_code == 200
