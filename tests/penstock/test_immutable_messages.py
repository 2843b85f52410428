"""In one process the gateway and the worker hold the same messages: nobody changes one once it was published or answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from gateway.settings import GatewaySettings
from penstock.one_process import OneProcess
from protocol.codec import encode_reply, encode_request
from protocol.messages import InferReply
from protocol.ports import FinishOutcome, OutRecord, Published, Terminal
from protocol.transport import Transport
from protocol.transport.embedded.memory import MemoryBus, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.penstock.writing_module import WritingModule
from tests.workers.fleet import write_model
from workers.settings import WorkerSettings

VALUES = [1.0, 2.0, 3.0, 4.0]
CONFIG = """
backend: "pytorch"
max_batch_size: 8
input [ { name: "X__0" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "B__1" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Y__0" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { max_queue_delay_microseconds: 20000 }
parameters { key: "INFERENCE_MODE" value: { string_value: "false" } }
"""


class Messages:
    """What was published and answered, as bytes of that moment."""

    def __init__(self) -> None:
        self.requests: list[tuple[OutRecord, bytes]] = []
        self.replies: list[tuple[InferReply, bytes]] = []

    def check(self) -> None:
        for record, before in self.requests:
            assert record.request is not None
            assert encode_request(record.request)[0] == before
        for reply, before in self.replies:
            assert encode_reply(reply) == before


@pytest.fixture
async def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Messages, str]]:
    folder = write_model(tmp_path, "writer", CONFIG)
    torch.jit.script(WritingModule()).save(folder / "1" / "model.pt")
    seen = Messages()
    publish, finish = MemoryBus.publish_now, MemoryStore.finish_now

    def publish_now(self: MemoryBus, topic: str, records: Sequence[OutRecord]) -> Published:
        seen.requests += [(each, encode_request(each.request)[0]) for each in records if each.request is not None]
        return publish(self, topic, records)

    def finish_now(self: MemoryStore, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        replies = [each.payload for each in answers]
        seen.replies += [(each, encode_reply(each)) for each in replies if isinstance(each, InferReply)]
        return finish(self, answers)

    monkeypatch.setattr(MemoryBus, "publish_now", publish_now)
    monkeypatch.setattr(MemoryStore, "finish_now", finish_now)
    settings = GatewaySettings(http_port=0, metrics_port=None, json_offload_bytes=4096)
    fleet = OneProcess(settings, WorkerSettings(model_repository=(tmp_path,)), TransportSettings())
    await fleet.start()
    try:
        yield seen, f"http://127.0.0.1:{fleet.gateway.port}/v2/models/writer/infer"
    finally:
        await fleet.stop()


Form = tuple[bytes, dict[str, str]]
OTHER = {"name": "B__1", "datatype": "FP32", "shape": [1, 1], "data": [0.0]}
"""Before the first input: the worker puts inputs into the configuration's order."""


def as_json(values: Sequence[float]) -> Form:
    tensor = {"name": "X__0", "datatype": "FP32", "shape": [1, len(values)], "data": list(values)}
    return json.dumps({"inputs": [OTHER, tensor], "outputs": [{"name": "Y__0"}] * 2}).encode(), {}


def as_bytes(values: Sequence[float]) -> Form:
    raw = np.array(values, np.float32).tobytes()
    form = {"binary_data_size": len(raw)}
    tensor = {"name": "X__0", "datatype": "FP32", "shape": [1, len(values)], "parameters": form}
    head = json.dumps({"inputs": [OTHER, tensor]}).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}


@pytest.mark.parametrize("form", [as_json, as_bytes])
@pytest.mark.parametrize("size", [4, 4000], ids=["small", "large"])
async def test_a_model_that_writes_to_its_tensors_changes_no_message(
    messages: tuple[Messages, str], form: object, size: int
) -> None:
    seen, url = messages
    values = (VALUES * size)[:size]
    assert callable(form)
    body, headers = form(values)
    async with httpx.AsyncClient(timeout=60) as client:
        for _ in range(3):
            answer = await client.post(url, content=body, headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"][0]["data"] == [2.0 * (value + 1.0) for value in values]
    assert len(seen.requests) == len(seen.replies) == 3
    seen.check()


def test_the_transport_in_memory_is_an_immediate_one() -> None:
    store = MemoryStore(TransportSettings())
    transport = Transport(MemoryBus(), store, store)
    assert transport.bus.immediate is not None
    assert transport.results.immediate is not None
