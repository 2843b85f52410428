"""What a case is: a model's inputs, and what its framework answers when it is called directly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from protocol.tensors import Array
from tests.real_models import generated

Inputs = dict[str, Array]
Answers = dict[str, Array]


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """A model that one command serves.

    Attributes:
        name: of the model.
        package: that carries it; "" for one that we export ourselves.
        form: the file's format, for the page.
        file: in the package's folder, or a function that writes it.
        inputs: made-up ones, by a seeded generator.
        direct: the framework's answers to them, given the file.
        framework: that is called directly.
        tolerance: largest difference to them; 0 for bit-equal.
        batches: whether rows of several requests may share a run.
        warned: what the log says of the model; "" for nothing.
        suffix: of a file that is written.
    """

    name: str
    package: str
    form: str
    file: str | Callable[[Path], None]
    inputs: Callable[[np.random.Generator], Inputs]
    direct: Callable[[Path, Inputs], Answers]
    framework: str = "onnxruntime"
    tolerance: float = 0.0
    batches: bool = True
    warned: str = ""
    suffix: str = ".onnx"


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A file that is refused.

    Attributes:
        name: for the page.
        package: that carries it.
        form: the file's format.
        file: in the package's folder; a folder too.
        named: what the message says that is wrong.
        cures: what the message says to do.
    """

    name: str
    package: str
    form: str
    file: str
    named: str
    cures: tuple[str, ...]


def onnx(path: Path, inputs: Inputs) -> Answers:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def pytorch(path: Path, inputs: Inputs) -> Answers:
    """The module itself, not the file."""
    import torch

    with torch.inference_mode():
        first, second = generated.module()(torch.from_numpy(inputs["x"]))
    return {"OUTPUT__0": first.numpy(), "OUTPUT__1": second.numpy()}


def scaled(path: Path, inputs: Inputs) -> Answers:
    """The module itself; over HTTP a scalar is one element."""
    import torch

    with torch.inference_mode():
        answer = generated.scaled()(torch.from_numpy(inputs["x"]), torch.tensor(inputs["by"][0]))
    return {"OUTPUT__0": answer.numpy()}


def bfloat16(path: Path, inputs: Inputs) -> Answers:
    """Through FP32: a softmax of the numbers that the bits stand for, rounded to the nearest bits."""
    numbers = (inputs["X"].astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    shares = np.exp(numbers - numbers.max(axis=1, keepdims=True))
    return {"Y": (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)}


def sklearn(path: Path, inputs: Inputs) -> Answers:
    rows = np.concatenate([inputs["town"], inputs["a"], inputs["b"]], axis=1, dtype=object)
    model = generated.pipeline()
    return {"label": model.predict(rows).astype(object), "probabilities": model.predict_proba(rows)}


def sklearn_labels(path: Path, inputs: Inputs) -> Answers:
    return {"output_label": sklearn(path, inputs)["label"]}


def images(name: str, *shape: int, dtype: str = "f4") -> Callable[[np.random.Generator], Inputs]:
    return lambda random: {name: random.random(shape).astype(dtype)}


def byte_values(random: np.random.Generator) -> Inputs:
    return {"bytes": random.integers(0, 257, (2, 2048)).astype(np.int32)}


def speech(chunk: int, *, rate: bool) -> Callable[[np.random.Generator], Inputs]:
    def make(random: np.random.Generator) -> Inputs:
        inputs = {
            "input": random.standard_normal((2, chunk)).astype(np.float32), "state": np.zeros((2, 2, 128), np.float32)
        }  # fmt: skip
        return inputs | ({"sr": np.array(16000)} if rate else {})

    return make


def one_stream(random: np.random.Generator) -> Inputs:
    return {"input": random.standard_normal((1, 576)).astype(np.float32), "state": np.zeros((2, 1, 128), np.float32)}


def sequence(random: np.random.Generator) -> Inputs:
    state = np.zeros((1, 1, 128), np.float32)
    return {"input": random.standard_normal((5, 576)).astype(np.float32), "h": state, "c": state}


def towns(random: np.random.Generator) -> Inputs:
    rows, _ = generated.table(5)
    return {"town": rows[:, :1], "a": rows[:, 1:2].astype(np.float32), "b": rows[:, 2:].astype(np.float32)}


def rows_and_a_number(random: np.random.Generator) -> Inputs:
    return {"x": random.random((2, 4)).astype(np.float32), "by": np.float32([2.5])}


def bits(random: np.random.Generator) -> Inputs:
    return {"X": (random.standard_normal((3, 8)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)}


def small_integers(random: np.random.Generator) -> Inputs:
    return {"X": random.integers(0, 256, (3, 8)).astype(np.uint8)}


def numbers(array: Array, datatype: str) -> Any:
    """An output as numbers or texts that can be compared."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if datatype == "BYTES":
        return np.array([item.decode() for item in array.ravel()], dtype=object).reshape(array.shape)
    return array
