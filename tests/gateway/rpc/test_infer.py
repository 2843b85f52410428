"""ModelInfer, against a gateway on a fleet in memory."""

from __future__ import annotations

import struct

import numpy as np

from tests.gateway.fleet import Site
from tests.gateway.rpc.stub import ROW, infer_request, stub


async def test_raw_contents_in_and_out(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        answer = await client.infer(infer_request(id="mine"))
    assert (answer.model_name, answer.model_version, answer.id) == ("add_sub", "1", "mine")
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [
        ("OUTPUT0", "FP32", [1, 16]),
        ("OUTPUT1", "FP32", [1, 16]),
    ]
    sums, differences = (np.frombuffer(raw, np.float32) for raw in answer.raw_output_contents)
    assert sums.tolist() == [2.0 * n for n in range(16)]
    assert differences.tolist() == [0.0] * 16


async def test_an_unknown_model_and_garbage(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        assert await client.refused(infer_request("nope")) == (
            "NOT_FOUND",
            "Request for unknown model: 'nope' is not found",
        )
        status, text = await client.refused(b"\xff\xff\xff")
        assert (status, "not a ModelInferRequest" in text) == ("INVALID_ARGUMENT", True)
        status, text = await client.refused(infer_request(raws=(ROW, ROW + struct.pack("<f", 1.0)), id="q"))
        assert (status, text) == (
            "INVALID_ARGUMENT",
            "[request id: q] input byte size mismatch for input 'INPUT1' for model 'add_sub'. Expected 64, got 68",
        )
