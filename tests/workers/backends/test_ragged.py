"""Ragged batches: requests of different shapes run together, on models that know how many elements each has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from protocol.errors import ConfigError, ModelFailed
from protocol.messages import InferRequest
from protocol.model_config import BatchInput, BatchInputKind, ModelConfig, TensorSpec
from protocol.model_config.pbtxt import parse
from protocol.model_config.ragged import BatchOutput, BatchOutputKind
from protocol.tensors import from_array
from tests.workers.backends.models import load, request, run, version_of
from tests.workers.backends.test_onnxruntime import save
from tests.workers.fleet import CHANNEL, IDENTITY, fleet, write_model
from workers.backends.identity import IdentityBackend
from workers.backends.onnxruntime import OnnxBackend
from workers.backends.ragged import RaggedAssembly, assembly_of, batch_input
from workers.backends.torch import TorchBackend

RAGGED = """
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true } ]
output [ { name: "SUM" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "DOUBLE" data_type: TYPE_FP32 dims: [ -1 ] } ]
batch_input [ { kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO target_name: "ENDS" data_type: TYPE_INT32 source_input: "X" } ]
batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "DOUBLE" source_input: "X" } ]
dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 60000000 }
"""


def sums(path: Path) -> Path:
    """The sum of each request's elements, from the places where they end; and every element doubled."""
    one, zero, big = (helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))
                      for name, value in (("one", [1]), ("nought", [0]), ("big", [2**31])))  # fmt: skip
    nodes = [
        one, zero, big,
        helper.make_node("Constant", [], ["minus"], value=numpy_helper.from_array(np.array([-1]))),
        helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array(0))),
        helper.make_node("Constant", [], ["none"], value=numpy_helper.from_array(np.zeros(1, np.float32))),
        helper.make_node("CumSum", ["X", "axis"], ["running"]),
        helper.make_node("Concat", ["none", "running"], ["before"], axis=0),
        helper.make_node("Slice", ["ENDS", "one", "big"], ["last"]),
        helper.make_node("Slice", ["ENDS", "nought", "minus"], ["first"]),
        helper.make_node("Gather", ["before", "last"], ["to"]),
        helper.make_node("Gather", ["before", "first"], ["from"]),
        helper.make_node("Sub", ["to", "from"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "one"], ["SUM"]),
        helper.make_node("Add", ["X", "X"], ["DOUBLE"]),
    ]  # fmt: skip
    flat = (TensorProto.FLOAT, ["e"])
    inputs = {"X": flat, "ENDS": (TensorProto.INT32, ["n"])}
    return save(path, nodes, inputs, {"SUM": (TensorProto.FLOAT, ["r", 1]), "DOUBLE": flat})


def of_sizes(*sizes: int) -> list[InferRequest]:
    return [
        InferRequest(
            f"r{size}", "m", "1", (from_array("X", np.arange(size, dtype=np.float32)[None]),), reply_to=CHANNEL
        )
        for size in sizes
    ]


async def test_requests_of_different_shapes_share_a_batch_of_an_onnx_model(tmp_path: Path) -> None:
    write_model(tmp_path, "m", RAGGED)
    sums(tmp_path / "m" / "1" / "model.onnx")
    async with fleet(tmp_path) as f:
        await f.worker()
        caller = await f.caller()
        answers = await caller.ask(*of_sizes(2, 4, 1))

    assert [answer.failure for answer in answers] == [None] * 3
    assert [answer.timing.batch_requests for answer in answers] == [3, 3, 3]
    assert [answer.outputs[0].array().tolist() for answer in answers] == [[[1]], [[6]], [[0]]]
    assert [answer.outputs[1].array().tolist() for answer in answers] == [[[0, 2]], [[0, 2, 4, 6]], [[0]]]


async def test_a_python_model_gets_each_requests_own_tensor(tmp_path: Path) -> None:
    code = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        answers = [{"SUM": array.sum(1, keepdims=True), "DOUBLE": array * 2} for array in arrays]
        return [pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in answer.items()]) for answer in answers]
"""
    write_model(tmp_path, "m", 'backend: "python"' + RAGGED, {"model.py": code})
    async with fleet(tmp_path) as f:
        await f.worker()
        caller = await f.caller()
        answers = await caller.ask(*of_sizes(2, 4, 1))

    assert [answer.timing.batch_requests for answer in answers] == [3, 3, 3]
    assert [answer.outputs[0].array().tolist() for answer in answers] == [[[1]], [[6]], [[0]]]


def test_a_torch_model_gets_the_batch_inputs_by_position(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Sums(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: torch.Tensor, ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            running = torch.cat([torch.zeros(1), torch.cumsum(x, 0)])
            return (running[ends[1:].long()] - running[ends[:-1].long()]).unsqueeze(1), 2 * x

    renamed = RAGGED.replace('"X"', '"INPUT__0"').replace('"ENDS"', '"INPUT__1"').replace('"SUM"', '"OUTPUT__0"')
    write_model(tmp_path, "m", 'backend: "pytorch"' + renamed.replace('"DOUBLE"', '"OUTPUT__1"'))
    torch.jit.script(Sums()).save(str(tmp_path / "m" / "1" / "model.pt"))
    instance = load(TorchBackend(), version_of(tmp_path, "m"))
    answers = run(instance, [request(INPUT__0=np.arange(size, dtype=np.float32)[None]) for size in (2, 4)])

    assert [answer["OUTPUT__0"].tolist() for answer in answers] == [[[1]], [[6]]]
    assert [answer["OUTPUT__1"].tolist() for answer in answers] == [[[0, 2]], [[0, 2, 4, 6]]]


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("ELEMENT_COUNT", [2, 4, 1, 3]),
        ("ACCUMULATED_ELEMENT_COUNT", [2, 6, 7, 10]),
        ("ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", [0, 2, 6, 7, 10]),
        ("MAX_ELEMENT_COUNT_AS_SHAPE", [0, 0, 0, 0]),
        ("ITEM_SHAPE", [[2], [4], [1], [3]]),
        ("ITEM_SHAPE_FLATTEN", [2, 4, 1, 3]),
    ],
)
@pytest.mark.parametrize("datatype", ["INT32", "FP32"])
def test_each_kind_holds_what_triton_puts_in_it(kind: str, made: list[object], datatype: str) -> None:
    """The counts of Triton's own L0_batch_input."""
    array = batch_input(
        BatchInput(BatchInputKind[kind], ("N",), datatype, ("X",)), [(1, size) for size in (2, 4, 1, 3)]
    )
    assert (array.tolist(), str(array.dtype)) == (made, {"INT32": "int32", "FP32": "float32"}[datatype])


def test_kinds_of_shapes_have_an_entry_per_row() -> None:
    shapes = [(2, 3, 5), (1, 4, 6)]
    made = [batch_input(BatchInput(BatchInputKind(kind), ("N",), "INT32", ("X",)), shapes).tolist()
            for kind in ("BATCH_ITEM_SHAPE", "BATCH_ITEM_SHAPE_FLATTEN", "BATCH_ELEMENT_COUNT")]  # fmt: skip
    assert made == [[[3, 5], [3, 5], [4, 6]], [3, 5, 3, 5, 4, 6], [30, 24]]


CONFIG = ModelConfig(
    name="m",
    backend="identity",
    max_batch_size=8,
    inputs=(
        TensorSpec("X", "FP32", (-1, -1), allow_ragged_batch=True),
        TensorSpec("T", "BYTES", (-1,), allow_ragged_batch=True),
        TensorSpec("F", "INT32", (2,)),
    ),
    outputs=(
        TensorSpec("Y", "FP32", (-1, -1)), TensorSpec("U", "BYTES", (-1,)), TensorSpec("G", "INT32", (2,)),
    ),
    batch_outputs=(
        BatchOutput(BatchOutputKind.SCATTER_WITH_INPUT_SHAPE, ("Y",), ("X",)),
        BatchOutput(BatchOutputKind.SCATTER_WITH_INPUT_SHAPE, ("U",), ("T",)),
    ),
)  # fmt: skip
sizes = st.integers(0, 3)


@given(st.lists(st.tuples(st.integers(1, 3), sizes, sizes, sizes), min_size=1, max_size=4), st.booleans())
def test_what_goes_in_comes_out_whatever_the_shapes(shapes: list[tuple[int, int, int, int]], named: bool) -> None:
    requests = []
    for rows, height, width, texts in shapes:
        x = np.random.default_rng(0).random((rows, height, width)).astype(np.float32)
        t = np.array([[f"{row}é{text}".encode() for text in range(texts)] for row in range(rows)], dtype=object)
        f = np.arange(2 * rows, dtype=np.int32).reshape(rows, 2)
        wanted = ("G", "Y") if named else ()
        requests.append(request(wanted, X=x, T=t.reshape(rows, texts), F=f))
    assembly = assembly_of(CONFIG)
    stacked = assembly.stack(requests)
    outputs = dict(zip("YUG", (stacked.inputs[name] for name in "XTF"), strict=True))
    answers = assembly.cut(requests, outputs)

    assert isinstance(assembly, RaggedAssembly)
    assert stacked.inputs["X"].ndim == 1
    for asked, answer in zip(requests, answers, strict=True):
        given = dict(zip("YUG", asked.inputs, strict=True))
        assert [tensor.name for tensor in answer] == (["G", "Y"] if named else ["Y", "U", "G"])
        for tensor in answer:
            assert (tensor.shape, bytes(tensor.data)) == (given[tensor.name].shape, bytes(given[tensor.name].data))


def test_a_model_that_returns_too_many_or_other_elements_fails() -> None:
    assembly = assembly_of(CONFIG)
    asked = [request(("Y",), X=np.zeros((1, 2, 2), np.float32))]
    with pytest.raises(ModelFailed, match="with 5 elements; by the shapes of input 'X' it must have 4"):
        assembly.cut(asked, {"Y": np.zeros(5, np.float32)})
    with pytest.raises(ModelFailed, match="as INT64; its configuration says FP32"):
        assembly.cut(asked, {"Y": np.zeros(4, np.int64)})
    with pytest.raises(ModelFailed, match="returned no output 'Y'"):
        assembly.cut(asked, {})


def test_a_file_that_does_not_take_flat_tensors_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", RAGGED)
    two = (TensorProto.FLOAT, ["n", "e"])
    ends = {"ENDS": (TensorProto.INT32, ["n"])}
    nodes = [helper.make_node("Add", ["X", "X"], ["DOUBLE"]), helper.make_node("Add", ["X", "X"], ["SUM"])]
    save(folder / "1" / "model.onnx", nodes, {"X": two} | ends, {"DOUBLE": two, "SUM": two})
    with pytest.raises(
        ConfigError, match=r"input 'X': the model expects shape \[-1, -1\], but with allow_ragged_batch"
    ):
        load(OnnxBackend(), version_of(tmp_path, "m"))

    sums(folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(RAGGED.replace("ENDS", "STARTS"))
    with pytest.raises(
        ConfigError, match="unexpected batch input 'STARTS' for model 'm', its file's inputs are: X, ENDS"
    ):
        load(OnnxBackend(), version_of(tmp_path, "m"))
    (folder / "config.pbtxt").write_text(RAGGED.replace("TYPE_INT32", "TYPE_FP32"))
    with pytest.raises(ConfigError, match="expects datatype FP32 for batch input 'ENDS', model provides INT32"):
        load(OnnxBackend(), version_of(tmp_path, "m"))


def test_an_identity_model_needs_the_scatter(tmp_path: Path) -> None:
    write_model(
        tmp_path, "m", IDENTITY.replace("dims: [ -1 ] } ]\noutput", "dims: [ -1 ] allow_ragged_batch: true } ]\noutput")
    )
    with pytest.raises(ConfigError, match="needs a batch_output of kind BATCH_SCATTER"):
        load(IdentityBackend(), version_of(tmp_path, "m"))


def test_a_scatter_needs_a_dimension_for_each_variable_one() -> None:
    config = RAGGED.replace(
        '"DOUBLE" data_type: TYPE_FP32 dims: [ -1 ]', '"DOUBLE" data_type: TYPE_FP32 dims: [ 1, -1 ]'
    )
    with pytest.raises(
        ConfigError, match="output 'DOUBLE' has a variable dimension 1, and its source input 'X' has only 1"
    ):
        parse('backend: "onnxruntime" instance_group {}' + config, "config.pbtxt", "m").require_complete()


def test_models_without_ragged_inputs_are_assembled_as_ever() -> None:
    assert type(assembly_of(parse(IDENTITY, "config.pbtxt", "m"))).__name__ == "Assembly"
