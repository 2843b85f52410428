"""Datatypes that onnxruntime takes and returns, and what becomes of those that it alone has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import structlog.testing
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from protocol.errors import ConfigError
from protocol.messages import InferRequest
from protocol.tensors import NUMPY_DTYPE, Array, Tensor, from_array
from tests.real_models.page import UNZIP
from tests.workers.backends.models import load, request, run
from tests.workers.backends.test_onnxruntime import save
from workers.backends.base import Instance
from workers.backends.onnx_types import spec_of
from workers.backends.onnxruntime import OnnxBackend
from workers.repository.model_files import ModelFile
from workers.repository.scan import scan_file

node = helper.make_node
FLOAT, TEXT, BFLOAT16 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.BFLOAT16
KINDS = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": FLOAT, "FP64": TensorProto.DOUBLE, "BF16": BFLOAT16,
}  # fmt: skip


def served(path: Path) -> Instance:
    return load(OnnxBackend(), scan_file(ModelFile(path)))


def answer(instance: Instance, *inputs: Tensor, outputs: tuple[str, ...] = ()) -> dict[str, Array]:
    (given,) = run(instance, [InferRequest("id", "m", "1", inputs, outputs)])
    assert isinstance(given, dict)
    return given


def write(path: Path, graph: onnx.GraphProto, opset: int = 17) -> Path:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def value(name: str, shape: list[int | str], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def bits(values: Any) -> Array:
    """bfloat16 of numbers that it holds exactly."""
    return (np.float32(values).view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("datatype", KINDS)
@pytest.mark.parametrize("batches", [True, False])
def test_every_datatype_goes_in_and_out_bit_by_bit(tmp_path: Path, datatype: str, batches: bool) -> None:
    tensor = (KINDS[datatype], ["n" if batches else 1, 2])
    instance = served(save(tmp_path / "m.onnx", [node("Identity", ["X"], ["Y"])], {"X": tensor}, {"Y": tensor}))
    dtype = NUMPY_DTYPE[datatype]
    raw = np.random.default_rng(0).integers(0, 2 if datatype == "BOOL" else 120, (3, 1, 2 * dtype.itemsize), np.uint8)
    arrays = [each.view(dtype) for each in raw]
    requests = [InferRequest("id", "m", "1", (from_array("X", array, datatype),)) for array in arrays]

    answers = run(instance, requests) if batches else [run(instance, [each])[0] for each in requests]

    assert [each["Y"].tobytes() for each in answers if isinstance(each, dict)] == [array.tobytes() for array in arrays]


def test_bfloat16_is_computed_with_beside_other_datatypes(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["X"], ["f"], to=FLOAT), node("Mul", ["f", "W"], ["g"]), node("Cast", ["g"], ["Y"], to=BFLOAT16),
        node("ReduceSum", ["g"], ["S"]),
    ]  # fmt: skip
    inputs = {"X": (BFLOAT16, [2, 2]), "W": (FLOAT, [2, 2])}
    instance = served(save(tmp_path / "m.onnx", nodes, inputs, {"Y": (BFLOAT16, [2, 2]), "S": (FLOAT, [1, 1])}))
    given = (from_array("X", bits([[1, 2], [3, 4]]), "BF16"), from_array("W", np.float32([[2, 2], [2, 0.5]])))

    both, numbers = answer(instance, *given), answer(instance, *given, outputs=("S",))

    assert both["Y"].tolist() == bits([[2, 4], [6, 2]]).tolist()
    assert both["S"].tolist() == numbers["S"].tolist() == [[14.0]]


def test_texts_and_bfloat16_outputs_do_not_go_together(tmp_path: Path) -> None:
    nodes = [node("Identity", ["T"], ["U"]), node("Identity", ["X"], ["Y"])]
    text, number = (TEXT, ["n", 1]), (BFLOAT16, ["n", 1])

    with pytest.raises(ConfigError, match="takes text and returns BF16"):
        served(save(tmp_path / "m.onnx", nodes, {"T": text, "X": number}, {"U": text, "Y": number}))


def test_texts_and_bfloat16_inputs_do(tmp_path: Path) -> None:
    nodes = [node("Identity", ["T"], ["U"]), node("Cast", ["X"], ["Y"], to=FLOAT)]
    inputs = {"T": (TEXT, ["n", 1]), "X": (BFLOAT16, ["n", 1])}
    instance = served(save(tmp_path / "m.onnx", nodes, inputs, {"U": (TEXT, ["n", 1]), "Y": (FLOAT, ["n", 1])}))

    given = answer(instance, from_array("T", np.array([["a"]], object)), from_array("X", bits([[1.5]]), "BF16"))

    assert (given["U"].tolist(), given["Y"].tolist()) == ([[b"a"]], [[1.5]])


def test_a_zipmap_is_left_out_and_the_cure_is_named(tmp_path: Path) -> None:
    rows = np.float32([[0, 0], [1, 1], [2, 2], [3, 3]])
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(LogisticRegression().fit(rows, [0, 0, 1, 1]), rows[:1]).SerializeToString())

    with structlog.testing.capture_logs() as logs:
        instance = served(path)
    given = answer(instance, from_array("X", np.float32([[3, 3]])))

    assert [spec.name for spec in instance.config.outputs] == ["output_label"]
    assert given["output_label"].ravel().tolist() == [1]
    (warning,) = logs
    assert warning["log_level"] == "warning"
    assert warning["reason"] == (
        "output 'output_probability' is of the ONNX type seq(map(int64,tensor(float))), which no V2 datatype holds: export it as a "
        "tensor, with to_onnx(model, X[:1], options={'zipmap': False}) of skl2onnx, or zipmap=False of onnxmltools; CatBoost has "
        "no such option: docs/real-models.md has lines that take it out of a file"
    )


def test_the_lines_of_the_page_take_it_out_of_a_file(tmp_path: Path) -> None:
    rows = np.float32([[0, 0], [1, 1], [2, 2], [3, 3]])
    classifier = LogisticRegression().fit(rows, [0, 0, 1, 1])
    (tmp_path / "model.onnx").write_bytes(to_onnx(classifier, rows[:1]).SerializeToString())

    subprocess.run([sys.executable, "-c", UNZIP], cwd=tmp_path, check=True)

    given = answer(served(tmp_path / "model.onnx"), from_array("X", rows))
    np.testing.assert_allclose(given["probabilities"], classifier.predict_proba(rows), atol=1e-6)


def test_a_model_with_nothing_but_sequences_is_refused(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("Y", FLOAT, None)
    graph = helper.make_graph([node("SplitToSequence", ["X"], ["Y"])], "g", [value("X", ["n", 2])], [sequence])

    with pytest.raises(
        ConfigError,
        match=r"model 'm' cannot be served: its output 'Y' is of the ONNX type seq\(.* \(ConcatFromSequence\)",
    ):
        served(write(tmp_path / "m.onnx", graph))


@pytest.mark.parametrize(
    ("kind", "cure"),
    [
        ("map(string,tensor(float))", "make the tensors from the map in the caller"),
        ("seq(tensor(float))", "export each element as a tensor of its own"),
        ("optional(seq(tensor(float)))", "export each element as a tensor of its own"),
        ("tensor(float8e4m3fn)", "export it with a datatype of this list: BOOL, UINT8,"),
    ],
)
def test_other_types_have_a_cure(kind: str, cure: str) -> None:
    with pytest.raises(ConfigError, match=r"'S' is of the ONNX type .*, which no V2 datatype holds: ") as caught:
        spec_of("S", kind, [])

    assert cure in caught.value.message


def test_an_optional_tensor_may_be_left_out(tmp_path: Path) -> None:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2]))
    nodes = [node("OptionalHasElement", ["O"], ["H"]), node("Identity", ["X"], ["Y"])]
    outputs = [value("H", [], TensorProto.BOOL), value("Y", [2])]
    graph = helper.make_graph(nodes, "g", [value("X", [2]), helper.make_value_info("O", kind)], outputs)
    instance = served(write(tmp_path / "m.onnx", graph, opset=18))
    x = np.zeros(2, np.float32)

    without, with_it = run(instance, [request(X=x)])[0], run(instance, [request(X=x, O=x)])[0]

    assert [each["H"].tolist() for each in (without, with_it) if isinstance(each, dict)] == [[False], [True]]


def test_weights_in_a_second_file_are_found_beside_the_model(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "W")
    graph = helper.make_graph(
        [node("MatMul", ["X", "W"], ["Y"])], "g", [value("X", ["n", 2])], [value("Y", ["n", 3])], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)

    assert answer(served(path), from_array("X", np.float32([[1, 1]])))["Y"].tolist() == [[3, 5, 7]]

    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ConfigError, match=r"What to do: .* put 'm\.onnx\.data' beside the model"):
        served(path)
