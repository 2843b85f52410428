"""An ONNX model that onnxruntime needs long to load: it folds forty products of constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_slow_model(folder: Path, products: int = 40, size: int = 2500) -> Path:
    """The file of a model that adds the mean of a product of constants to X."""
    weight = numpy_helper.from_array(np.ones((size, size), np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"m{i}" if i else "w", "w"], [f"m{i + 1}"]) for i in range(products)]
    nodes.append(helper.make_node("ReduceMean", [f"m{products}"], ["c"], keepdims=0))
    nodes.append(helper.make_node("Add", ["X", "c"], ["Y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in "XY")
    graph = helper.make_graph(nodes, "slow", [x], [y], [weight])
    file = folder / "slow.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file
