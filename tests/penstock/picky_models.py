"""ONNX models that take only some of the sizes that their shapes allow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Axes = Sequence[int | str]
FLOAT, INT64, HALF = TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16


def _save(
    repository: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, Axes]],
    outputs: dict[str, tuple[int, Axes]],
    **constants: np.ndarray,
) -> None:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(tensor, kind, axes) for tensor, (kind, axes) in inputs.items()],
        [helper.make_tensor_value_info(tensor, kind, axes) for tensor, (kind, axes) in outputs.items()],
        [numpy_helper.from_array(array, constant) for constant, array in constants.items()],
    )
    path = repository / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_picky_models(repository: Path) -> dict[str, str]:
    """The models' folders; by name, the shape that is found for their first input, as `--shape` states it."""
    node = helper.make_node
    image: Axes = ["n", 3, "h", "w"]
    _save(
        repository, "window", [node("Conv", ["x", "w"], ["c"]), node("GlobalMaxPool", ["c"], ["y"])],
        {"x": (FLOAT, image)}, {"y": (FLOAT, ["n", 1, 1, 1])}, w=np.ones((1, 3, 20, 20), np.float32),
    )  # fmt: skip
    _save(
        repository, "fixed_inside", [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])],
        {"x": (FLOAT, image)}, {"y": (FLOAT, ["n", 1])}, w=np.zeros((3 * 224 * 224, 1), np.float32),
    )  # fmt: skip
    _save(
        repository, "channels_last", [node("MatMul", ["x", "w"], ["y"])],
        {"x": (FLOAT, ["n", "h", "w", "c"])}, {"y": (FLOAT, ["n", "h", "w", 2])}, w=np.ones((3, 2), np.float32),
    )  # fmt: skip
    _save(
        repository, "half", [node("Slice", ["x", "begin", "end", "axes"], ["s"]), node("MatMul", ["s", "w"], ["y"])],
        {"x": (HALF, ["n", "t"])}, {"y": (HALF, ["n", 1])}, w=np.ones((8, 1), np.float16),
        begin=np.int64([0]), end=np.int64([8]), axes=np.int64([1]),
    )  # fmt: skip
    _save(
        repository, "tokens",
        [node("Gather", ["words", "ids"], ["a"]), node("Gather", ["two", "types"], ["b"]), node("Add", ["a", "b"], ["y"])],
        {"ids": (INT64, ["n", "t"]), "types": (INT64, ["n", "t"])}, {"y": (FLOAT, ["n", "t", 4])},
        words=np.ones((100, 4), np.float32), two=np.ones((2, 4), np.float32),
    )  # fmt: skip
    return {
        "window": "x=1,3,32,32", "fixed_inside": "x=1,3,224,224", "channels_last": "x=1,32,32,3", "half": "x=1,8",
        "tokens": "ids=1,8",
    }  # fmt: skip


def write_voice(repository: Path) -> None:
    """A model that answers at a rate of 16,000 alone, a scalar, and does not batch."""
    _save(
        repository, "voice", [
            helper.make_node("Sub", ["rate", "right"], ["off"]),
            helper.make_node("Gather", ["zero", "off"], ["nothing"]),
            helper.make_node("Add", ["samples", "nothing"], ["y"]),
        ],
        {"samples": (FLOAT, ["n", "t"]), "rate": (INT64, [])}, {"y": (FLOAT, ["n", "t"])},
        right=np.array(16_000), zero=np.zeros(1, np.float32),
    )  # fmt: skip
