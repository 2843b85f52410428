"""Models that people export themselves: a scikit-learn pipeline, and one net in several precisions."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NET = Path(__file__).parents[2] / "examples/digits/models/digits/1/model.onnx"
"""An MLP for digits of 8 by 8 pixels."""
_QUIET = logging.Filter("nobody")
TOWNS = ["Aarhus", "Bergen", "Çorum"]


def pipeline() -> Pipeline:
    """A classifier of towns and numbers, trained on rows that a seed makes."""
    rows, labels = table(200)
    columns = ColumnTransformer(
        [("town", OneHotEncoder(handle_unknown="ignore"), [0]), ("numbers", StandardScaler(), [1, 2])]
    )
    return make_pipeline(columns, LogisticRegression()).fit(rows, labels)


def table(count: int) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Rows of a town and two numbers, and a class for each."""
    random = np.random.default_rng(7)
    rows = np.empty((count, 3), dtype=object)
    rows[:, 0] = random.choice(TOWNS, count)
    rows[:, 1:] = random.standard_normal((count, 2)).astype(np.float32)
    return rows, ["near" if town == "Bergen" or number > 0.5 else "far" for town, number, _ in rows]


def write_pipeline(path: Path, *, zipmap: bool) -> None:
    """The pipeline with a text input and a float input."""
    model = pipeline()
    types = [
        ("town", StringTensorType([None, 1])),
        ("a", FloatTensorType([None, 1])),
        ("b", FloatTensorType([None, 1])),
    ]
    renamed = Pipeline(model.steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(to_onnx(renamed, initial_types=types, options={"zipmap": zipmap}).SerializeToString())


def write_float16(path: Path) -> None:
    """Weights, inputs and outputs of FP16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save(convert_float_to_float16(onnx.load(NET)), path)


def write_int8(path: Path) -> None:
    """Weights of INT8, scales of the activations found while it runs."""
    logging.getLogger().addFilter(_QUIET)
    try:
        quantize_dynamic(NET, path)
    finally:
        logging.getLogger().removeFilter(_QUIET)


def write_uint8(path: Path) -> None:
    """Inputs and outputs of UINT8, as quantised models for small devices have."""
    nodes = [
        helper.make_node("DequantizeLinear", ["X", "s", "z"], ["x"]), helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "s", "z"], ["Y"]),
    ]  # fmt: skip
    constants = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.05]), helper.make_tensor("z", TensorProto.UINT8, [], [128])
    ]  # fmt: skip
    _write(path, nodes, TensorProto.UINT8, constants)


def write_bfloat16(path: Path) -> None:
    """Inputs and outputs of BF16, computed in FP32 as on every CPU."""
    nodes = [
        helper.make_node("Cast", ["X"], ["x"], to=TensorProto.FLOAT), helper.make_node("Softmax", ["x"], ["y"], axis=1),
        helper.make_node("Cast", ["y"], ["Y"], to=TensorProto.BFLOAT16),
    ]  # fmt: skip
    _write(path, nodes, TensorProto.BFLOAT16, [])


def module() -> Any:
    """A net of a convolution and two heads."""
    import torch

    class Net(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.head = torch.nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = torch.relu(self.conv(x)).mean((2, 3))
            return self.head(pooled), pooled.argmax(1)

    torch.manual_seed(5)
    return Net().eval()


def write_exported(path: Path) -> None:
    """torch.export with rows of any number."""
    import torch

    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(module(), (torch.zeros(2, 3, 16, 16),), dynamic_shapes={"x": {0: rows}})
    torch.export.save(program, path)


def write_traced(path: Path) -> None:
    """TorchScript, traced."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module(), torch.zeros(2, 3, 16, 16)).save(str(path))


def _write(path: Path, nodes: list[onnx.NodeProto], kind: int, constants: list[onnx.TensorProto]) -> None:
    sides = [[helper.make_tensor_value_info(name, kind, ["n", 8])] for name in ("X", "Y")]
    _save(path, helper.make_graph(nodes, "g", *sides, constants))


def _save(path: Path, graph: onnx.GraphProto) -> None:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_external(path: Path) -> None:
    """The weights in a second file."""
    onnx.save_model(onnx.load(NET), path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def write_sequence(path: Path) -> None:
    """The rows' values depend on each other: a softmax over the first dimension."""
    _write(path, [helper.make_node("Softmax", ["X"], ["Y"], axis=0)], TensorProto.FLOAT, [])


def write_own_format(path: Path) -> None:
    """onnxruntime's own format, as its mobile builds want it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    ort.InferenceSession(str(NET), options, providers=["CPUExecutionProvider"])


def write_one_label(path: Path) -> None:
    """It states one row of labels, whatever the number of rows, as onnxmltools does for LightGBM's classifiers."""
    nodes = [
        helper.make_node("Softmax", ["X"], ["probabilities"]),
        helper.make_node("ArgMax", ["X"], ["label"], axis=1, keepdims=0),
    ]
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 8])
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 8]),
    ]
    _save(path, helper.make_graph(nodes, "g", [given], outputs))


def write_one_length(path: Path) -> None:
    """Its output has the length of an example, as PyTorch's exporter writes it for an LSTM."""
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", length, 3])
        for name, length in (("X", "length"), ("Y", 5))
    ]
    _save(path, helper.make_graph([helper.make_node("Tanh", ["X"], ["Y"])], "g", sides[:1], sides[1:]))


def scaled() -> Any:
    """A module that takes a number beside its rows."""
    import torch

    class Scaled(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
        def forward(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
            return x * by if by.dim() == 0 else x

    return Scaled()


def write_scaled(path: Path) -> None:
    """TorchScript, traced, with a scalar input."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(scaled(), (torch.ones(2, 4), torch.tensor(3.0))).save(str(path))
