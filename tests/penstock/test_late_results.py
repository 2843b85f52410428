"""Calls that wait in the queue for longer than results are kept, in a whole fleet in one process."""

from __future__ import annotations

import asyncio
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from gateway.settings import GatewaySettings
from penstock.one_process import OneProcess
from protocol.naming import ref
from protocol.transport.embedded.memory import MemoryStore
from protocol.transport.settings import TransportSettings
from tests.gateway.fleet import until
from workers.repository.model_files import ModelFile
from workers.settings import WorkerSettings

KEPT = 2.0
"""Seconds of --result-ttl."""
MODEL = """
    import pathlib, time

    class Model:
        inputs = {"X": ("FP32", [1])}
        outputs = {"Y": ("FP32", [1])}
        max_batch_size = 8

        def predict(self, X):
            while not pathlib.Path(%r).exists():
                time.sleep(0.01)
            return {"Y": X + 1}
"""
BODY = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}


@pytest.mark.slow
@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
async def test_a_result_that_came_late_is_kept_for_as_long_as_any(tmp_path: Path, headers: dict[str, str]) -> None:
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL) % str(tmp_path / "open"))
    built = OneProcess(
        GatewaySettings(http_port=0, metrics_port=None, result_ttl=KEPT),
        WorkerSettings(model_file=(ModelFile(tmp_path / "model.py"),), drain_grace=5.0),
        TransportSettings(result_ttl=KEPT),
    )
    store = built._transport.results
    assert isinstance(store, MemoryStore)
    (tmp_path / "open").touch()  # for the warm-up
    await built.start()
    (tmp_path / "open").unlink()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{built.gateway.port}", trust_env=False, timeout=20
        ) as client:
            runner = built.worker.models.serving()[0].runner
            ahead = asyncio.ensure_future(client.post("/v2/models/model/infer", json=BODY))
            await until(lambda: runner.running_rows == 1)
            accepted = await client.post(
                "/v2/models/model/infer", json=BODY, headers={"prefer": "respond-async", **headers}
            )
            request_ref = ref("-", accepted.headers["penstock-request-id"])
            published = time.time()
            await until(lambda: time.time() > published + 1.5 * KEPT)
            (tmp_path / "open").touch()
            streams = store._server.fences.streams
            await until(lambda: request_ref in streams and streams[request_ref].payload is not None)
            left = streams[request_ref].expires - time.time()
            answer = await client.get(accepted.headers["location"])

            assert answer.status_code == 200
            assert answer.json()["outputs"][0]["data"] == [2.0]
            assert KEPT / 2 < left <= KEPT, "not for the five minutes of a plain call's fence"
            assert (await ahead).status_code == 200
            assert (await client.get(accepted.headers["location"])).content == answer.content
    finally:
        await built.stop()
