"""Models whose first dimension is not the batch, tried as they are loaded."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import structlog.testing
import torch
from onnx import TensorProto, helper, numpy_helper

from protocol.messages import InferRequest
from protocol.model_config import InstanceGroup, ModelConfig, TensorSpec
from protocol.tensors import from_array
from tests.workers.backends.test_onnxruntime import save
from tests.workers.backends.test_torch_files import scripted, traced
from tests.workers.children import loader, running
from workers.instances.batching_check import CheckFailed, try_batching
from workers.instances.job import InstanceDied
from workers.instances.process.executor import PARAMETER
from workers.lifecycle.loader import Loader
from workers.lifecycle.row_checks import in_child
from workers.repository.model_files import ModelFile
from workers.repository.row_influence import Verdict
from workers.repository.scan import scan_file
from workers.repository.version import ModelVersion

node = helper.make_node
FLOAT = TensorProto.FLOAT


def weights(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(0).standard_normal(shape).astype(np.float32), name)


def constant(name: str, values: Any, kind: Any = np.int64) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values, kind)))


DEPENDENT: dict[str, tuple[list[onnx.NodeProto], list[Any], list[Any], str]] = {
    "a softmax over the first axis": (
        [node("Softmax", ["X"], ["Y"], axis=0)], ["n", 4], ["n", 4], "output 'Y' of a row changes by up to",
    ),
    "each row less the mean of all": (
        [node("ReduceMean", ["X"], ["M"], axes=[0], keepdims=1), node("Sub", ["X", "M"], ["Y"])],
        ["n", 4], ["n", 4], "output 'Y' of a row changes by up to",
    ),
    "attention over the first axis": (
        [
            node("Transpose", ["X"], ["T"], perm=[1, 0]),
            node("MatMul", ["X", "T"], ["S"]), node("Softmax", ["S"], ["P"], axis=1), node("MatMul", ["P", "X"], ["Y"]),
        ],
        ["n", 4], ["n", 4], "output 'Y' of a row changes by up to",
    ),
    "rows in reverse order": (
        [constant("s", [-1]), constant("e", [-(2**31)]), constant("a", [0]), node("Slice", ["X", "s", "e", "a", "s"], ["Y"])],
        ["n", 4], ["n", 4], "output 'Y' of a row changes by up to",
    ),
    "a running sum": (
        [constant("a", 0), node("CumSum", ["X", "a"], ["Y"])], ["n", 4], ["n", 4], "output 'Y' of a row changes by up to",
    ),
    "two answers to each row": (
        [constant("r", [2, 1]), node("Tile", ["X", "r"], ["Y"])],
        ["n", 4], ["m", 4], "returned output 'Y' with shape [2, 4] for a batch of 1 rows",
    ),
    "as many answers as there are detections": (
        [constant("t", 2.0, np.float32), node("Greater", ["X", "t"], ["G"]), node("NonZero", ["G"], ["N"]),
         node("Transpose", ["N"], ["Y"], perm=[1, 0])],
        ["n", 4], ["m", 2], "returned output 'Y' with shape [0, 2] for a batch of 1 rows",
    ),
    "pairs of rows": (
        [constant("s", [-1, 2, 4]), node("Reshape", ["X", "s"], ["P"]), constant("t", [-1, 4]), node("Reshape", ["P", "t"], ["Y"])],
        ["n", 4], ["m", 4], "a row alone is refused, and 2 rows are not (",
    ),
    "a reshape to one row": (
        [constant("s", [1, 4]), node("Reshape", ["X", "s"], ["R"]), node("Mul", ["R", "X"], ["Y"])],
        ["n", 4], ["n", 4], "2 rows cannot run together, only each alone (",
    ),
    "classes by the largest row": (
        [node("ArgMax", ["X"], ["A"], axis=0, keepdims=1), node("Shape", ["X"], ["S"]), node("Expand", ["A", "S"], ["Y"])],
        ["n", 4], ["n", 4], "output 'Y' of a row is another one with another row",
    ),
}  # fmt: skip


def file(
    folder: Path, nodes: list[onnx.NodeProto], taken: list[Any], given: list[Any], kind: int = FLOAT
) -> ModelVersion:
    return scan_file(ModelFile(save(folder / "m.onnx", nodes, {"X": (FLOAT, taken)}, {"Y": (kind, given)})))


def isolated(version: ModelVersion, isolation: str) -> ModelVersion:
    return dataclasses.replace(version, config=dataclasses.replace(version.config, parameters={PARAMETER: isolation}))


async def served(version: ModelVersion, *, check: bool = True) -> tuple[ModelConfig, list[str]]:
    """The configuration of the loaded version, and what was logged about its rows."""
    loading = loader()
    loading.check_batching = check
    with structlog.testing.capture_logs() as logs:
        loaded = await loading.load(version)
    await loaded.close()
    return loaded.version.config, [
        f"{line['log_level']}: {line['event']}: {line['reason']}" for line in logs if "reason" in line
    ]


@pytest.mark.parametrize("name", DEPENDENT)
async def test_rows_that_influence_each_other_are_not_batched(tmp_path: Path, name: str) -> None:
    nodes, taken, given, reason = DEPENDENT[name]
    kind = TensorProto.INT64 if nodes[0].op_type == "ArgMax" or nodes[-1].op_type == "Transpose" else FLOAT
    config, said = await served(file(tmp_path, nodes, taken, given, kind))

    assert (config.max_batch_size, config.dynamic_batching) == (0, None)
    assert config.inputs[0].dims == (-1, 4)
    (line,) = said
    assert line.startswith(
        "warning: served without batching, because its rows influence each other; to batch all the same, "
    )
    assert reason in line


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_such_a_model_answers_with_all_its_rows(tmp_path: Path, isolation: str) -> None:
    nodes, taken, given, _ = DEPENDENT["a softmax over the first axis"]
    version = isolated(file(tmp_path, nodes, taken, given), isolation)
    rows = np.float32([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])

    async with running(version) as model:
        (answer,) = await model.ask(InferRequest("id", "m", "1", (from_array("X", rows),)))

    assert isinstance(answer, tuple)
    np.testing.assert_allclose(answer[0].array(), np.full((3, 4), 1 / 3), rtol=1e-6)


def quantised(folder: Path) -> ModelVersion:
    """Dynamic quantisation: the scale of the inputs is that of the whole batch."""
    table = np.random.default_rng(0).integers(-127, 127, (16, 8)).astype(np.int8)
    values = [
        numpy_helper.from_array(array, name)
        for name, array in (("W", table), ("z", np.int8(0)), ("s", np.float32(0.1)))
    ]
    nodes = [
        node("DynamicQuantizeLinear", ["X"], ["q", "qs", "qz"]), node("MatMulInteger", ["q", "W", "qz", "z"], ["i"]),
        node("Cast", ["i"], ["f"], to=FLOAT), node("Mul", ["qs", "s"], ["scale"]), node("Mul", ["f", "scale"], ["Y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("X", FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("Y", FLOAT, ["n", 8])], values,
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
    )  # fmt: skip
    return scan_file(ModelFile(folder / "m.onnx"))


def wide(folder: Path) -> ModelVersion:
    """Kernels for one and for two rows round differently."""
    nodes = [node("MatMul", ["X", "W"], ["a"]), node("Softmax", ["a"], ["Y"], axis=1)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("X", FLOAT, ["n", 2000])],
        [helper.make_tensor_value_info("Y", FLOAT, ["n", 10])], [weights("W", 2000, 10)],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
    )  # fmt: skip
    return scan_file(ModelFile(folder / "m.onnx"))


def texts(folder: Path) -> ModelVersion:
    text = (TensorProto.STRING, ["n", 1])
    return scan_file(ModelFile(save(folder / "m.onnx", [node("Identity", ["X"], ["Y"])], {"X": text}, {"Y": text})))


def any_size(folder: Path) -> ModelVersion:
    """Refuses 8: 32 is tried next."""
    nodes = [constant("s", [0, 2, 16]), node("Reshape", ["X", "s"], ["Y"])]
    return file(folder, nodes, ["n", "w"], ["n", 2, 16])


INDEPENDENT: dict[str, Callable[[Path], ModelVersion]] = {
    "dynamic quantisation": quantised, "a wide product": wide, "texts": texts, "an unusual size": any_size,
}  # fmt: skip


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("name", INDEPENDENT)
async def test_independent_rows_are_batched_without_a_word(tmp_path: Path, name: str, isolation: str) -> None:
    config, said = await served(isolated(INDEPENDENT[name](tmp_path), isolation))

    assert config.max_batch_size == 32
    assert said == []


@pytest.mark.parametrize(
    ("nodes", "taken", "given", "reason"),
    [
        (
            [constant("s", [0, 7, 13]), node("Reshape", ["X", "s"], ["Y"])],
            ["n", "w"],
            ["n", 7, 13],
            "it refuses made-up inputs (",
        ),
        (
            [node("RandomNormalLike", ["X"], ["Y"])],
            ["n", 4],
            ["n", 4],
            "its answers to the same row differ from run to run; if that is not meant, it was exported in training mode",
        ),
        ([node("Neg", ["X"], ["Y"])], ["n", 1 << 23], ["n", 1 << 23], "its rows are too large"),
    ],
)
@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_where_nothing_can_be_seen_rows_are_batched(
    tmp_path: Path, nodes: list[onnx.NodeProto], taken: list[Any], given: list[Any], reason: str, isolation: str
) -> None:
    config, said = await served(isolated(file(tmp_path, nodes, taken, given), isolation))

    assert config.max_batch_size == 32
    (line,) = said
    level = "warning" if "run to run" in reason else "info"
    assert line.startswith(
        f"{level}: batched, since its first dimensions may have any size; whether its rows are independent was not"
    )
    assert reason in line


async def test_the_check_can_be_switched_off(tmp_path: Path) -> None:
    nodes, taken, given, _ = DEPENDENT["a softmax over the first axis"]

    config, said = await served(file(tmp_path, nodes, taken, given), check=False)

    assert (config.max_batch_size, said) == (32, [])


async def test_a_stated_batch_size_is_not_doubted(tmp_path: Path) -> None:
    nodes, taken, given, _ = DEPENDENT["a softmax over the first axis"]
    version = file(tmp_path, nodes, taken, given)
    stated = dataclasses.replace(version.config, max_batch_size=4, batch_size_stated=True)

    config, said = await served(dataclasses.replace(version, config=stated))

    assert (config.max_batch_size, said) == (4, [])


class LessTheMean(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_inputs_on_the_command_line_do_not_say_that_rows_are_independent(tmp_path: Path, isolation: str) -> None:
    path = scripted(tmp_path / "m.pt", LessTheMean())
    version = isolated(scan_file(ModelFile(path, inputs=(TensorSpec("x", "FP32", (4,)),))), isolation)

    config, said = await served(version)

    assert (config.max_batch_size, config.inputs[0].dims, config.outputs[0].dims) == (0, (-1, 4), (-1, 4))
    (line,) = said
    assert "served without batching, because its rows influence each other" in line


class _Echo:
    """An instance that answers each request with its inputs and counts its runs."""

    runs = 0

    def prepare(self, requests: Any) -> Any:
        return requests

    def run(self, prepared: Any) -> Any:
        self.runs += 1
        return prepared

    def split(self, requests: Any, raw: Any) -> Any:
        return [request.inputs for request in requests]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("slow", "verdict", "runs"), [
    (60.0, Verdict(shapes={"X": (1, 2)}), 3),
    (-1.0, Verdict(unjudged="a row takes longer than -1 s", shapes={"X": (1, 2)}), 1),
])  # fmt: skip
def test_a_load_does_not_wait_for_more_rows_of_a_slow_model(slow: float, verdict: Verdict, runs: int) -> None:
    tensor = [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}]
    config = ModelConfig.from_json(
        {"name": "m", "backend": "identity", "max_batch_size": 4, "input": tensor, "output": tensor}
    )
    instance = _Echo()

    assert (try_batching(instance, config, slow), instance.runs) == (verdict, runs)


class _Choosy(_Echo):
    """An instance that refuses every size."""

    def run(self, prepared: Any) -> Any:
        super().run(prepared)
        raise ValueError("of another size, please")


@pytest.mark.parametrize(("slow", "several"), [(60.0, True), (-1.0, False)])
def test_a_load_does_not_wait_for_every_size_that_a_model_refuses_slowly(slow: float, several: bool) -> None:
    tensor = [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1]}]
    config = ModelConfig.from_json(
        {"name": "m", "backend": "identity", "max_batch_size": 4, "input": tensor, "output": tensor}
    )
    instance = _Choosy()

    verdict = try_batching(instance, config, slow)

    assert verdict.unjudged.startswith("it refuses made-up inputs (")
    assert not verdict.influence
    assert verdict.shapes is None
    assert (instance.runs > 2) == several, "each size is tried with one row and with two"


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize(("name", "shape"), [
    ("a softmax over the first axis", (1, 4)), ("pairs of rows", (2, 4)), ("two answers to each row", (1, 4)),
])  # fmt: skip
async def test_the_loaded_model_says_which_sizes_it_took(
    tmp_path: Path, name: str, shape: tuple[int, ...], isolation: str
) -> None:
    nodes, taken, given, _ = DEPENDENT[name]
    loaded = await loader().load(isolated(file(tmp_path, nodes, taken, given), isolation))
    try:
        assert loaded.shapes == {"X": shape}
        request = InferRequest("id", "m", "1", (from_array("X", np.zeros(shape, np.float32)),))
        (answer,) = await loaded.executors[0].attempt([request])
        assert isinstance(answer, tuple)
    finally:
        await loaded.close()


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_size_that_was_found_by_trying_is_kept(tmp_path: Path, isolation: str) -> None:
    loaded = await loader().load(isolated(any_size(tmp_path), isolation))
    await loaded.close()
    assert loaded.shapes == {"X": (1, 32)}


@torch.jit.script
def _unless_zero(x: torch.Tensor) -> torch.Tensor:
    """Never returns for anything but zeros."""
    while bool((x != 0).any()):
        x = x + 0
    return x


class _Endless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        returned: torch.Tensor = _unless_zero(x)
        return returned


async def test_a_check_that_never_ends_is_given_up_and_the_model_served_without_it(tmp_path: Path) -> None:
    """As any batch that hangs: its process is killed."""
    version = scan_file(ModelFile(traced(tmp_path / "m.pt", _Endless(), torch.zeros(2, 4))))
    limited = dataclasses.replace(version.config, parameters={"max_execution_ms": "300"})

    with structlog.testing.capture_logs() as logs:
        loaded = await loader().load(dataclasses.replace(version, config=limited))
    try:
        request = InferRequest("id", "m", "1", (from_array("x", np.zeros((1, 4), np.float32)),))
        (answer,) = await loaded.executors[0].attempt([request])
    finally:
        await loaded.close()

    assert isinstance(answer, tuple)
    assert (loaded.version.config.max_batch_size, loaded.shapes) == (32, None)
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert line["event"].startswith(
        "made-up rows, run to see whether rows may share a batch, ended its process, or took too "
    )
    assert line["reason"] == "it took longer than 0.3 s"


@pytest.mark.parametrize("outcome", [
    InstanceDied("its process was ended by SIGKILL"),
    Verdict(unjudged="it refuses made-up inputs (AcceleratorError: CUDA error: device-side assert triggered)"),
    Verdict("2 rows cannot run together, only each alone (CUDA error: an illegal memory access was encountered)"),
])  # fmt: skip
async def test_a_check_that_ends_or_spoils_its_process_does_not_end_the_load(outcome: InstanceDied | Verdict) -> None:
    class Mortal:
        async def try_batching(self) -> Verdict:
            if isinstance(outcome, Verdict):
                return outcome
            raise outcome

    version = ModelVersion("m", 1, Path("/nowhere"), Path("/nowhere"), ModelConfig(name="m", backend="pytorch"), "")
    with pytest.raises(CheckFailed, match=r"SIGKILL|CUDA error"):
        await in_child(cast("Any", Mortal()), version)


async def test_the_load_says_that_it_waits_for_the_check(tmp_path: Path) -> None:
    version = scan_file(ModelFile(traced(tmp_path / "m.pt", _Endless(), torch.zeros(2, 4))))
    loading = loader()
    task = asyncio.ensure_future(loading.load(version))
    try:
        while not loading.step(version):
            assert not task.done()
            await asyncio.sleep(0.01)
        assert "--no-check-batching" in loading.step(version)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert loading.step(version) == ""


class _Centred(torch.nn.Module):
    """Twice each row less the mean of all; counts its runs in millionths, too few to be seen, if it is told to."""

    def __init__(self, *, counts: bool) -> None:
        super().__init__()
        self.counts = counts
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.counts:
            self.runs.add_(1)
        return 2 * x - x.mean(0, keepdim=True) + self.runs * 1e-6


def gone_once_checked(loading: Loader, version: ModelVersion) -> asyncio.Task[None]:
    """Removes the file as soon as the check runs: the model was loaded then."""

    async def remove() -> None:
        while not loading.step(version):  # noqa: ASYNC110  # nobody signals it
            await asyncio.sleep(0)
        version.path.unlink()

    return asyncio.ensure_future(remove())


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("kind", ["ONNX", "TorchScript"])
async def test_a_model_that_does_not_batch_after_all_is_not_loaded_again(
    tmp_path: Path, kind: str, isolation: str
) -> None:
    if kind == "ONNX":
        nodes, taken, given, _ = DEPENDENT["each row less the mean of all"]
        version = file(tmp_path, nodes, taken, given)
    else:
        version = scan_file(ModelFile(traced(tmp_path / "m.pt", _Centred(counts=False), torch.zeros(2, 4))))
    version = isolated(version, isolation)
    loading = loader()
    gone = gone_once_checked(loading, version)

    loaded = await loading.load(version)
    try:
        await gone
        name = loaded.version.config.inputs[0].name
        rows = np.float32([[2, 4, 6, 8], [0, 0, 0, 0], [1, 2, 3, 4]])
        (answer,) = await loaded.executors[0].attempt([InferRequest("id", "m", "1", (from_array(name, rows),))])
    finally:
        await loaded.close()

    assert loaded.version.config.max_batch_size == 0
    expected = (rows if kind == "ONNX" else 2 * rows) - rows.mean(0)
    np.testing.assert_allclose(answer[0].array(), expected, atol=1e-4)


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_module_that_keeps_state_is_loaded_again_where_it_does_not_batch(
    tmp_path: Path, isolation: str
) -> None:
    path = traced(tmp_path / "m.pt", _Centred(counts=True), torch.zeros(2, 4))
    while_traced = float(torch.jit.load(str(path)).runs)  # type: ignore[no-untyped-call]
    with structlog.testing.capture_logs() as logs:
        loaded = await loader().load(isolated(scan_file(ModelFile(path)), isolation))
    assert [line["event"][:24] for line in logs if line["log_level"] == "warning"] == ["served without batching,"]
    try:
        request = InferRequest("id", "m", "1", (from_array("x", np.zeros((2, 4), np.float32)),))
        (answer,) = await loaded.executors[0].attempt([request])
    finally:
        await loaded.close()
    assert loaded.version.config.max_batch_size == 0
    np.testing.assert_allclose(answer[0].array() * 1e6, np.full((2, 4), while_traced + 1), rtol=1e-3)


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_every_instance_of_such_a_model_serves_without_batches(tmp_path: Path, isolation: str) -> None:
    nodes, taken, given, _ = DEPENDENT["each row less the mean of all"]
    version = isolated(file(tmp_path, nodes, taken, given), isolation)
    groups = dataclasses.replace(version.config, instance_groups=(InstanceGroup(count=2),))
    rows = np.float32([[2, 4, 6, 8], [0, 0, 0, 0], [1, 2, 3, 4]])
    loaded = await loader().load(dataclasses.replace(version, config=groups))
    try:
        for executor in loaded.executors:
            (answer,) = await executor.attempt([InferRequest("id", "m", "1", (from_array("X", rows),))])
            np.testing.assert_allclose(answer[0].array(), rows - rows.mean(0), rtol=1e-6)
    finally:
        await loaded.close()
    assert len(loaded.executors) == 2
