"""What an ONNX file leaves out about its shapes is learnt by a run; what no request can ask is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from protocol.errors import ConfigError
from tests.workers.backends.models import load, request, run
from tests.workers.backends.test_onnxruntime import adder, save
from workers.backends.base import Instance
from workers.backends.onnxruntime import OnnxBackend
from workers.repository.completion import complete
from workers.repository.model_files import ModelFile
from workers.repository.scan import scan_file
from workers.repository.stated_inputs import parse_input

FLOAT = TensorProto.FLOAT


def loaded(path: Path, *inputs: str) -> Instance:
    """As `penstock serve PATH --input …` loads it."""
    return load(OnnxBackend(), scan_file(ModelFile(path, inputs=tuple(parse_input(text) for text in inputs))))


def negated(path: Path, given: object, taken: object) -> Path:
    return save(path, [helper.make_node("Neg", ["X"], ["Y"])], {"X": (FLOAT, given)}, {"Y": (FLOAT, taken)})


def squeezed(path: Path, stated: object = None) -> Path:
    """Its output has the input's dimensions but those of size 1: onnxruntime infers no shape, whatever the file states."""
    nodes = [helper.make_node("Squeeze", ["X"], ["Y"])]
    return save(path, nodes, {"X": (FLOAT, ["n", 3, 1])}, {"Y": (FLOAT, stated)})


def test_an_output_without_a_shape_has_the_one_that_onnxruntime_infers(tmp_path: Path) -> None:
    instance = loaded(negated(tmp_path / "m.onnx", ["n", 3], None))

    assert (instance.config.max_batch_size, instance.config.outputs[0].dims) == (32, (3,))  # type: ignore[attr-defined]
    (answer,) = run(instance, [request(X=np.float32([[1, 2, 3]]))])
    assert answer["Y"].tolist() == [[-1, -2, -3]]


def test_or_the_rank_that_a_run_shows(tmp_path: Path) -> None:
    version = scan_file(ModelFile(squeezed(tmp_path / "m.onnx")))

    config = complete(version.config, OnnxBackend().inspect(version))

    assert [spec.dims for spec in config.outputs] == [(-1,)]


def test_a_stated_shape_that_onnxruntime_does_not_believe_is_not_taken_for_a_scalar(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = [
        helper.make_node("Constant", [], ["S"], value_ints=[-1, 2, 2]),
        helper.make_node("Reshape", ["X", "S"], ["Y"]),
    ]
    save(path, nodes, {"X": (FLOAT, ["n", 4])}, {"Y": (FLOAT, ["n", 4])})

    (answer,) = run(loaded(path), [request(X=np.float32([[1, 2, 3, 4]]))])

    assert answer["Y"].tolist() == [[[1, 2], [3, 4]]]


def test_inputs_without_a_shape_are_stated_on_the_command_line(tmp_path: Path) -> None:
    path = negated(tmp_path / "m.onnx", None, None)
    with pytest.raises(ConfigError, match=r"its input 'X' has: .* or on the command line: --input X:FP32:DIMS$"):
        loaded(path)

    instance = loaded(path, "X:FP32:3")

    assert instance.config.max_batch_size == 32  # type: ignore[attr-defined]
    answers = run(instance, [request(X=np.float32([[1, 2, 3]])), request(X=np.float32([[4, 5, 6]]))])
    assert [answer["Y"].tolist() for answer in answers] == [[[-1, -2, -3]], [[-4, -5, -6]]]


def test_and_do_not_batch_where_the_answer_has_not_as_many_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(path, [helper.make_node("ReduceSum", ["X"], ["Y"], keepdims=0)], {"X": (FLOAT, None)}, {"Y": (FLOAT, [])})

    instance = loaded(path, "X:FP32:3")

    assert instance.config.max_batch_size == 0  # type: ignore[attr-defined]
    assert run(instance, [request(X=np.float32([1, 2, 3]))])[0]["Y"].tolist() == [6]


def test_a_stated_size_that_the_model_does_not_keep_is_any_size(tmp_path: Path) -> None:
    """onnxmltools' LightGBM classifiers state one row of labels, and PyTorch's exporter sometimes the length of its example."""
    path = tmp_path / "m.onnx"
    nodes = [helper.make_node("ArgMax", ["X"], ["label"], axis=1, keepdims=0), helper.make_node("Neg", ["X"], ["Y"])]
    save(path, nodes, {"X": (FLOAT, ["n", 3])}, {"label": (TensorProto.INT64, [1]), "Y": (FLOAT, ["n", 3])})
    model = onnx.load(path)
    del model.graph.value_info[:]
    onnx.save(model, path)

    instance = loaded(path)

    assert instance.config.max_batch_size == 32  # type: ignore[attr-defined]
    answers = run(instance, [request(X=np.float32([[1, 2, 3]])), request(X=np.float32([[3, 2, 1], [1, 2, 1]]))])
    assert [answer["label"].ravel().tolist() for answer in answers] == [[2], [0, 1]]
    assert [spec.dims for spec in instance.config.outputs] == [(1,), (3,)]  # type: ignore[attr-defined]


def test_a_stated_rank_is_not_believed_of_operators_without_shape_inference(tmp_path: Path) -> None:
    """CatBoost states [n] for its predictions, which are [n, 1]."""
    path = tmp_path / "m.onnx"
    trees = helper.make_node(
        "LinearRegressor", ["X"], ["Y"], domain="ai.onnx.ml", coefficients=[1.0, 1.0], intercepts=[0.5], targets=1
    )
    sides = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in (("X", ["n", 2]), ("Y", ["n"]))]
    graph = helper.make_graph([trees], "g", sides[:1], sides[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)

    instance = loaded(path)

    assert instance.config.max_batch_size == 32  # type: ignore[attr-defined]
    answers = run(instance, [request(X=np.float32([[1, 2]])), request(X=np.float32([[3, 4], [5, 6]]))])
    assert [answer["Y"].tolist() for answer in answers] == [[[3.5]], [[7.5], [11.5]]]


def test_nor_is_one_of_a_free_length(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = [helper.make_node("Identity", ["X"], ["Z"]), helper.make_node("Neg", ["Z"], ["Y"])]
    save(path, nodes, {"X": (FLOAT, ["n", "length", 2])}, {"Y": (FLOAT, ["n", 5, 2])})

    instance = loaded(path)

    assert [spec.dims for spec in instance.config.outputs] == [(-1, 2)]  # type: ignore[attr-defined]
    (answer,) = run(instance, [request(X=np.ones((1, 3, 2), np.float32))])
    assert answer["Y"].shape == (1, 3, 2)


def test_where_no_run_succeeds_the_outputs_have_to_be_stated(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = [
        helper.make_node("Cast", ["X"], ["F"], to=FLOAT),
        helper.make_node("Squeeze", ["F"], ["Y"]),
    ]  # of no number
    save(path, nodes, {"X": (TensorProto.STRING, ["n", 1])}, {"Y": (FLOAT, None)})

    with pytest.raises(ConfigError, match=r"its output 'Y' has: state its outputs in config.pbtxt"):
        loaded(path)


def test_onnxruntimes_own_format_is_loaded_under_both_suffixes(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "own.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(adder(tmp_path / "adder.onnx")), options, providers=["CPUExecutionProvider"])
    (tmp_path / "own.onnx").write_bytes((tmp_path / "own.ort").read_bytes())

    for name in ("own.ort", "own.onnx"):
        (answer,) = run(loaded(tmp_path / name), [request(A=np.float32([[1, 2]]), B=np.float32([[3, 4]]))])
        assert answer["SUM"].tolist() == [[4, 6]]


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(path, [helper.make_node("Constant", [], ["Y"], value_float=1.0)], {}, {"Y": (FLOAT, [])})

    with pytest.raises(ConfigError, match=r"takes no inputs, .* export it again with what varies as an input"):
        loaded(path)


def test_more_inputs_than_a_request_holds_are_refused_at_load(tmp_path: Path) -> None:
    names = [f"X{index}" for index in range(257)]
    path = tmp_path / "m.onnx"
    save(
        path,
        [helper.make_node("Sum", names, ["Y"])],
        {name: (FLOAT, ["n", 1]) for name in names},
        {"Y": (FLOAT, ["n", 1])},
    )

    with pytest.raises(ConfigError, match="takes 257 inputs, and a request holds at most 256 tensors: export it again"):
        loaded(path)


@pytest.mark.parametrize(
    ("datatype", "said"),
    [
        (TensorProto.COMPLEX64, "What to do: onnxruntime has no complex numbers"),
        (TensorProto.FLOAT8E4M3FN, "no V2 datatype holds"),
    ],
)
def test_datatypes_that_nobody_carries_are_named(tmp_path: Path, datatype: int, said: str) -> None:
    tensor = (datatype, ["n", 2])
    path = save(tmp_path / "m.onnx", [helper.make_node("Identity", ["X"], ["Y"])], {"X": tensor}, {"Y": tensor})
    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = 21, 10
    onnx.save(model, path)

    with pytest.raises(ConfigError, match=said):
        loaded(path)
