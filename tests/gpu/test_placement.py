"""Models land on the GPU that their configuration names, and are seen there."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.gpu.fleet import Serve, write
from tests.workers.backends.models import request, run, version_of
from workers.backends.onnxruntime import OnnxBackend
from workers.devices import Hardware
from workers.repository.completion import complete
from workers.repository.placement import place

VECTOR = """
    backend: "%s" max_batch_size: 32
    input [ { name: "INPUT__0" data_type: TYPE_FP32 dims: [4] } ]
    output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [4] }, { name: "OUTPUT__1" data_type: TYPE_FP32 dims: [1] } ]
    instance_group [ %s ]
    dynamic_batching { }
"""


def where() -> object:
    """Adds one, and says whether it did that on a GPU."""
    import torch

    class Where(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            place = torch.full((x.shape[0], 1), 1.0 if x.is_cuda else 0.0)
            return x + 1, place

    return Where()


@pytest.mark.parametrize(
    ("group", "on_gpu", "instances"),
    [
        ("", 1.0, 1),
        ("{ kind: KIND_AUTO }", 1.0, 1),
        ("{ kind: KIND_GPU count: 2 }", 1.0, 2),
        ("{ kind: KIND_GPU gpus: [ 0 ] }", 1.0, 1),
        ("{ kind: KIND_CPU }", 0.0, 1),
    ],
)
async def test_torchscript_runs_where_its_instance_group_says(
    tmp_path: Path, serve: Serve, group: str, on_gpu: float, instances: int
) -> None:
    write(tmp_path, "where", VECTOR % ("pytorch", group), module=where())
    async with serve() as fleet:
        assert len(fleet.executors("where")) == instances
        rows = [np.full((1, 4), number, np.float32) for number in range(64)]
        answers = await asyncio.gather(*[fleet.ask("where", INPUT__0=row) for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            np.testing.assert_array_equal(answer["OUTPUT__0"], row + 1)
            assert answer["OUTPUT__1"].tolist() == [[on_gpu]]


async def test_an_exported_program_runs_on_the_gpu(tmp_path: Path, serve: Serve) -> None:
    import torch

    rows = torch.export.Dim("rows", min=1, max=32)
    linear = torch.nn.Linear(4, 4)
    program = torch.export.export(linear, (torch.zeros(2, 4),), dynamic_shapes=({0: rows},))
    config = re.sub(r", \{ name: \"OUTPUT__1\"[^}]*\}", "", VECTOR % ("pytorch", "{ kind: KIND_GPU }"))
    torch.export.save(program, str(write(tmp_path, "linear", config) / "model.pt2"))
    async with serve() as fleet:
        row = np.float32([[1, -2, 3, 0.5]])
        answer = await fleet.ask("linear", INPUT__0=row)
        np.testing.assert_allclose(answer["OUTPUT__0"], linear(torch.from_numpy(row)).detach(), atol=1e-5)


async def test_a_python_model_is_told_its_gpu(tmp_path: Path, serve: Serve) -> None:
    code = """
        import numpy as np
        import torch
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def initialize(self, args):
                assert args["model_instance_kind"] == "GPU", args
                self.device = torch.device("cuda", int(args["model_instance_device_id"]))

            def execute(self, requests):
                answers = []
                for request in requests:
                    x = torch.from_numpy(pb_utils.get_input_tensor_by_name(request, "INPUT__0").as_numpy().copy())
                    y = x.to(self.device) + 1
                    outputs = [
                        pb_utils.Tensor("OUTPUT__0", y.cpu().numpy()),
                        pb_utils.Tensor("OUTPUT__1", np.full((len(y), 1), float(y.is_cuda), np.float32)),
                    ]
                    answers.append(pb_utils.InferenceResponse(output_tensors=outputs))
                return answers
    """
    write(tmp_path, "told", VECTOR % ("python", "{ kind: KIND_GPU }"), code)
    async with serve() as fleet:
        answer = await fleet.ask("told", INPUT__0=np.float32([[1, 2, 3, 4]]))
        assert answer["OUTPUT__0"].tolist() == [[2.0, 3.0, 4.0, 5.0]]
        assert answer["OUTPUT__1"].tolist() == [[1.0]]


def onnx_model(root: Path, group: str, parameters: str = "") -> Path:
    """A product with a matrix of ones through four, as a graph."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(16, dtype=np.float32).reshape(4, 4)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [numpy_helper.from_array(weights, "weights")],
    )
    config = f'backend: "onnxruntime" max_batch_size: 32 instance_group [ {group} ] dynamic_batching {{ }} {parameters}'
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(write(root, "product", config) / "model.onnx"))
    return root


def test_onnxruntime_runs_on_its_cuda_provider(tmp_path: Path) -> None:
    version = version_of(onnx_model(tmp_path, "{ kind: KIND_GPU }"), "product")
    backend = OnnxBackend()
    config = complete(version.config, backend.inspect(version))
    (placement,) = place(config, backend.usable_gpus(Hardware().gpus), 1)
    instance = backend.load(dataclasses.replace(version, config=config), placement)
    assert instance._session.get_providers()[0] == "CUDAExecutionProvider"  # type: ignore[attr-defined]
    assert not instance.loop_safe  # type: ignore[attr-defined]
    (answer,) = run(instance, [request(x=np.float32([[1, 0, 0, 0]]))])
    assert answer["y"].tolist() == [[0.0, 1.0, 2.0, 3.0]]  # type: ignore[index,union-attr]


async def test_an_onnx_model_on_a_gpu_is_a_process_and_answers_rightly(tmp_path: Path, serve: Serve) -> None:
    onnx_model(tmp_path, "{ kind: KIND_GPU }")
    async with serve() as fleet:
        assert fleet.child("product").pid is not None
        rows = [np.eye(4, dtype=np.float32)[[number % 4]] * (number + 1) for number in range(64)]
        answers = await asyncio.gather(*[fleet.ask("product", x=row) for row in rows])
        for number, answer in enumerate(answers):
            expected = (np.arange(4) + 4 * (number % 4)) * (number + 1)
            np.testing.assert_allclose(answer["y"][0], expected, rtol=2e-3)


async def test_a_gpu_that_is_not_there_is_named_at_load(tmp_path: Path) -> None:
    missing = len(Hardware().gpus)
    version = version_of(onnx_model(tmp_path, f"{{ kind: KIND_GPU gpus: [ {missing} ] }}"), "product")
    with pytest.raises(Exception, match=f"specifies invalid or unsupported gpu id {missing}"):
        place(version.config, OnnxBackend().usable_gpus(Hardware().gpus), 1)


async def test_the_metrics_tell_of_the_gpu(tmp_path: Path, serve: Serve) -> None:
    import torch

    write(tmp_path, "where", VECTOR % ("pytorch", "{ kind: KIND_GPU }"), module=where())
    async with serve() as fleet, httpx.AsyncClient() as http:
        await fleet.ask("where", INPUT__0=np.zeros((1, 4), np.float32))
        page = (await http.get(f"http://127.0.0.1:{fleet.built.gateway.metrics_port}/metrics")).text
    gauges = dict(re.findall(r'^(nv_\w+)\{gpu_uuid="GPU-[^"]+"\} (\S+)$', page, re.MULTILINE))
    total = torch.cuda.get_device_properties(0).total_memory
    assert float(gauges["nv_gpu_memory_total_bytes"]) == pytest.approx(total, rel=0.1)
    assert 0 < float(gauges["nv_gpu_memory_used_bytes"]) < total
    assert 0 <= float(gauges["nv_gpu_utilization"]) <= 1
    assert float(gauges["nv_gpu_power_usage"]) > 0


def test_the_doctor_sees_it() -> None:
    done = subprocess.run([sys.executable, "-m", "penstock", "doctor"], capture_output=True, text=True, check=True)
    assert re.search(r"^ok +gpu 0 +\S.*, \d+ MiB of \d+ free$", done.stdout, re.MULTILINE), done.stdout
