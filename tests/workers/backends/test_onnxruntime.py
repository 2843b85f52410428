from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from protocol.errors import Code, ConfigError, InvalidArgument
from protocol.messages import Failure
from protocol.model_config import ModelConfig
from tests.workers.backends.models import load, request, run, version_of
from workers.backends.onnx_providers import require_providers
from workers.backends.onnxruntime import OnnxBackend
from workers.repository.model_files import ModelFile
from workers.repository.scan import scan_file

DIGITS = Path("examples/digits")


def save(path: Path, nodes: list[onnx.NodeProto], inputs: dict, outputs: dict) -> Path:
    """An ONNX file of these nodes; tensors as name -> (type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *value) for name, value in inputs.items()],
        [helper.make_tensor_value_info(name, *value) for name, value in outputs.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def adder(path: Path, rows: object = "n") -> Path:
    tensor = (TensorProto.FLOAT, [rows, 2])
    return save(path, [helper.make_node("Add", ["A", "B"], ["SUM"])], {"A": tensor, "B": tensor}, {"SUM": tensor})


def test_the_demos_model_classifies_held_back_digits_in_one_batch() -> None:
    held_back = np.load(DIGITS / "held_back.npz")
    images = (held_back["pixels"][:32] / 16).astype(np.float32)
    instance = load(OnnxBackend(), version_of(DIGITS / "models", "digits"))

    answers = run(instance, [request(image=image[None]) for image in images])

    right = sum(
        int(answer["digit"][0, 0]) == label for answer, label in zip(answers, held_back["labels"], strict=False)
    )
    assert right >= 30
    assert answers[0]["probabilities"].sum() == pytest.approx(1, abs=1e-5)


def test_a_file_alone_is_completed_from_its_graph(tmp_path: Path) -> None:
    instance = load(OnnxBackend(), scan_file(ModelFile(adder(tmp_path / "adder.onnx"))))

    (answer,) = run(instance, [request(A=np.float32([[1, 2]]), B=np.float32([[3, 4]]))])

    assert instance.config.max_batch_size == 32
    assert [spec.dims for spec in instance.config.inputs] == [(2,), (2,)]
    np.testing.assert_array_equal(answer["SUM"], [[4, 6]])


def test_a_graph_with_a_fixed_first_dimension_does_not_batch(tmp_path: Path) -> None:
    instance = load(OnnxBackend(), scan_file(ModelFile(adder(tmp_path / "adder.onnx", rows=1))))

    assert instance.config.max_batch_size == 0
    assert run(instance, [request(A=np.float32([[1, 2]]), B=np.float32([[3, 4]]))])[0]["SUM"].shape == (1, 2)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scalar_is_taken_as_one_element_or_as_none_and_answered_as_one(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    nodes = [helper.make_node("Mul", ["X", "S"], ["Y"]), helper.make_node("ReduceSum", ["Y"], ["N"], keepdims=0)]
    inputs = {"X": (TensorProto.FLOAT, [3]), "S": (TensorProto.FLOAT, [])}
    path = save(tmp_path / "m.onnx", nodes, inputs, {"Y": (TensorProto.FLOAT, [3]), "N": (TensorProto.FLOAT, [])})
    instance = load(OnnxBackend(), scan_file(ModelFile(path)))

    (answer,) = run(instance, [request(X=np.float32([1, 2, 3]), S=np.full(shape, 2, np.float32))])

    assert (answer["Y"].tolist(), answer["N"].tolist()) == ([2, 4, 6], [12])


def test_a_rank_that_the_file_does_not_state_is_not_taken_for_a_scalar(tmp_path: Path) -> None:
    tensor = (TensorProto.FLOAT, None)
    path = save(tmp_path / "m.onnx", [helper.make_node("Neg", ["X"], ["Y"])], {"X": tensor}, {"Y": tensor})

    with pytest.raises(ConfigError, match="does not state how many dimensions its input 'X' has"):
        load(OnnxBackend(), scan_file(ModelFile(path)))


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    text = (TensorProto.STRING, ["n", 1])
    path = save(tmp_path / "echo.onnx", [helper.make_node("Identity", ["IN"], ["OUT"])], {"IN": text}, {"OUT": text})
    instance = load(OnnxBackend(), scan_file(ModelFile(path)))

    answers = run(instance, [request(IN=np.array([["é"]])), request(IN=np.array([["b"], ["c"]]))])

    assert [answer["OUT"].tolist() for answer in answers] == [[["é".encode()]], [[b"b"], [b"c"]]]


def test_bytes_that_are_not_text_are_refused_and_only_their_request(tmp_path: Path) -> None:
    text = (TensorProto.STRING, ["n", 2])
    path = save(tmp_path / "echo.onnx", [helper.make_node("Identity", ["IN"], ["OUT"])], {"IN": text}, {"OUT": text})
    instance = load(OnnxBackend(), scan_file(ModelFile(path)))
    good, late = ([["é".encode(), b""]], [[b"a", b"b"], [b"c", b"d"]])
    bad = [[b"x", b"y"], [b"z", b"ab\xff"]]

    answers = run(instance, [request(IN=np.array(rows, dtype=object)) for rows in (good, bad, late)])

    (first, refused, last) = answers
    assert isinstance(refused, Failure)
    assert refused.code is Code.INVALID_ARGUMENT
    assert "input 'IN' of model 'echo' holds bytes that are not UTF-8 (0xff at byte 2 of an element)" in refused.message
    assert [answer["OUT"].tolist() for answer in (first, last) if not isinstance(answer, Failure)] == [good, late]
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        run(instance, [request(IN=np.array(bad, dtype=object))])


def test_what_a_run_answers_is_not_changed_by_the_next(tmp_path: Path) -> None:
    tensor = (TensorProto.FLOAT, ["n", 2])
    weights = helper.make_tensor("W", TensorProto.FLOAT, [1, 2], [5.0, 6.0])
    nodes = [helper.make_node("Identity", ["IN"], ["OUT"]), helper.make_node("Constant", [], ["C"], value=weights)]
    path = save(tmp_path / "echo.onnx", nodes, {"IN": tensor}, {"OUT": tensor, "C": (TensorProto.FLOAT, [1, 2])})
    instance = load(OnnxBackend(), scan_file(ModelFile(path)))
    given = [np.full((1, 2), number, np.float32) for number in range(3)]

    raws = [instance.run(instance.prepare([request(IN=each)])) for each in given]

    assert [raw["OUT"].tolist() for raw in raws] == [each.tolist() for each in given]
    assert not any(np.shares_memory(raw["OUT"], each) for raw, each in zip(raws, given, strict=True))
    assert not np.shares_memory(raws[0]["C"], raws[1]["C"])


def test_only_wanted_outputs_are_computed_and_answered(tmp_path: Path) -> None:
    tensor = (TensorProto.FLOAT, ["n", 1])
    nodes = [helper.make_node("Neg", ["IN"], ["A"]), helper.make_node("Abs", ["IN"], ["B"])]
    instance = load(
        OnnxBackend(),
        scan_file(ModelFile(save(tmp_path / "two.onnx", nodes, {"IN": tensor}, {"A": tensor, "B": tensor}))),
    )

    answers = run(instance, [request(("B",), IN=np.float32([[-1]])), request(IN=np.float32([[2]]))])

    assert [sorted(answer) for answer in answers] == [["B"], ["A", "B"]]


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")

    with pytest.raises(ConfigError, match=r"onnxruntime cannot load model 'broken' version 1"):
        OnnxBackend().inspect(scan_file(ModelFile(path)))


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ('key: "execution_providers" value { string_value: "MagicExecutionProvider" }', "needs MagicExecutionProvider"),
        ('key: "intra_op_thread_count" value { string_value: "many" }', "must be a number, not 'many'"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(tmp_path: Path, parameter: str, text: str) -> None:
    adder(tmp_path / "adder" / "1" / "model.onnx")
    (tmp_path / "adder" / "config.pbtxt").write_text(f"parameters {{ {parameter} }}")

    with pytest.raises(ConfigError, match=text):
        load(OnnxBackend(), version_of(tmp_path, "adder"))


def test_a_provider_that_onnxruntime_could_not_start_is_an_error_and_not_the_cpu_instead() -> None:
    config = ModelConfig(name="m", backend="onnxruntime")
    cuda = ("CUDAExecutionProvider", {"device_id": "0"})
    require_providers(config, [cuda, "CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="could not start CUDAExecutionProvider for model 'm'"):
        require_providers(config, [cuda, "CPUExecutionProvider"], ["CPUExecutionProvider"])


def test_onnxruntime_tells_nobody_what_is_served(tmp_path: Path) -> None:
    """Where it may, it writes an identifier of the machine into the home folder, before it sends anything."""
    adder(tmp_path / "model.onnx")
    load_it = (
        "import sys, pathlib; from workers.backends.onnxruntime import OnnxBackend; from workers.repository.scan import scan_file;"
        "from workers.repository.model_files import ModelFile;"
        "OnnxBackend().inspect(scan_file(ModelFile(pathlib.Path(sys.argv[1]))))"
    )
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(
        [sys.executable, "-c", load_it, tmp_path / "model.onnx"],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        check=True,
    )
    assert list(home.rglob("*")) == []
