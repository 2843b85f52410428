"""Each cure beside the text that the installed library really raises."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from workers.backends.cures import SEARCHED, add_cure, cure, with_cure

node = helper.make_node
FLOAT, STRING, BFLOAT16 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.BFLOAT16
COMPLEX, FOUR_BITS = TensorProto.COMPLEX64, TensorProto.FLOAT4E2M1
WEIGHTS = numpy_helper.from_array(np.ones((100, 2), np.float32), "W")
Value = tuple[int, list[int | str | None]]
X: dict[str, Value] = {"X": (FLOAT, ["n", 2])}
Y: dict[str, Value] = {"Y": (FLOAT, ["n", 2])}


def model(
    *nodes: onnx.NodeProto,
    takes: dict[str, Value] = X,
    gives: dict[str, Value] = Y,
    opset: int = 17,
    ir: int = 8,
    domain: str = "",
) -> onnx.ModelProto:
    sides = [[helper.make_tensor_value_info(name, *value) for name, value in side.items()] for side in (takes, gives)]
    graph = helper.make_graph(list(nodes), "g", *sides, [WEIGHTS])
    domains = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=domains, ir_version=ir)


def session(path: Path, content: onnx.ModelProto | bytes) -> Any:
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def custom(domain: str) -> onnx.ModelProto:
    return model(node("Foo", ["X"], ["Y"], domain=domain), domain=domain)


NEG = node("Neg", ["X"], ["Y"])
GEMM = node("Gemm", ["X", "W"], ["Y"], transB=1)
LOADING: dict[str, tuple[onnx.ModelProto | bytes, str]] = {
    "IR too new": (model(NEG, ir=40), "m.ir_version = 14"),
    "opset too new": (model(NEG, opset=99), "export it again with opset 28 of ai.onnx (opset_version=28"),
    "operator of another opset": (model(node("NoSuchOp", ["X"], ["Y"])), "no operator NoSuchOp in the opset"),
    "custom operator": (custom("com.acme"), "Foo is a custom operator (domain com.acme)"),
    "extensions": (custom("ai.onnx.contrib"), "the library onnxruntime-extensions"),
    "an optimised file": (custom("com.microsoft"), "Foo is an operator of other builds"),
    "missing domain": (model(node("Foo", ["X"], ["Y"], domain="com.acme")), "make_opsetid('com.acme', 1)"),
    "no kernel": (
        model(
            node("Conv", ["X", "V"], ["Y"]), opset=22, ir=10,
            takes={"X": (BFLOAT16, [1, 1, 3, 3]), "V": (BFLOAT16, [1, 1, 2, 2])}, gives={"Y": (BFLOAT16, [1, 1, 2, 2])},
        ),
        "cannot run Conv with these datatypes",
    ),
    "no kernel for a type": (
        model(
            node("Cast", ["X"], ["Y"], to=FOUR_BITS), opset=25, ir=13,
            takes={"X": (TensorProto.FLOAT16, [2])}, gives={"Y": (FOUR_BITS, [2])},
        ),
        "cannot run Cast with these datatypes",
    ),
    "complex numbers": (
        model(node("Identity", ["X"], ["Y"]), takes={"X": (COMPLEX, ["n", 2])}, gives={"Y": (COMPLEX, ["n", 2])}),
        "onnxruntime has no complex numbers",
    ),
    "complex numbers inside": (
        model(node("Cast", ["X"], ["C"], to=COMPLEX), node("Cast", ["C"], ["Y"], to=FLOAT)), "onnxruntime has no complex numbers",
    ),
    "one name twice": (model(NEG, node("Abs", ["X"], ["Y"])), "the file contradicts itself"),
    "rows in front of a sequence": (
        model(
            node("GRU", ["X", "V", "V"], ["Y"], hidden_size=1, layout=1),
            takes={"X": (FLOAT, ["n", 3, 1]), "V": (FLOAT, [1, 3, 1])}, gives={"Y": (FLOAT, None)},
        ),
        "export it again with layout 0",
    ),
    "locale": (
        model(
            node("StringNormalizer", ["X"], ["Y"], locale="xx_YY", case_change_action="LOWER"),
            takes={"X": (STRING, [2])}, gives={"Y": (STRING, [None])},
        ),
        "the locale xx_YY, which this machine lacks: apt-get install locales-all",
    ),
    "not ONNX": (b"\x0a\xff\xff\xff\xff\x0f", "not a whole model of this format"),
    "cut short": (model(GEMM, gives={"Y": (FLOAT, ["n", 100])}).SerializeToString()[:500], "not a whole model of this format"),
    "no graph": (b"\x08\x08", "not a whole model of this format"),
    "wrong types": (
        model(node("Add", ["X", "I"], ["Y"]), takes=X | {"I": (TensorProto.INT64, ["n", 2])}), "onnx.checker.check_model",
    ),
}  # fmt: skip


def raised(call: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # of many types
        call()
    return str(caught.value)


@pytest.mark.parametrize("name", LOADING)
def test_what_onnxruntime_says_of_a_file(tmp_path: Path, name: str) -> None:
    content, expected = LOADING[name]

    assert expected in cure(raised(lambda: session(tmp_path / "m.onnx", content)))


@pytest.mark.parametrize(("kept", "expected"), [
    (None, "put 'm.onnx.data' beside the model under that name"), (100, "copy both again, or write one file"),
    ("../m.onnx.data", "names its weights by a path outside its own folder"),
    ("/models/m.onnx.data", "names its weights by a path outside its own folder"),
])  # fmt: skip
def test_what_onnxruntime_says_of_weights_in_a_second_file(
    tmp_path: Path, kept: int | str | None, expected: str
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(
        model(GEMM, gives={"Y": (FLOAT, ["n", 100])}),
        path,
        save_as_external_data=True,
        location="m.onnx.data",
        size_threshold=0,
    )
    if kept is None:
        (tmp_path / "m.onnx.data").unlink()
    elif isinstance(kept, str):
        elsewhere = onnx.load(path, load_external_data=False)
        next(entry for entry in elsewhere.graph.initializer[0].external_data if entry.key == "location").value = kept
        onnx.save(elsewhere, path)
        (tmp_path.parent / "m.onnx.data").touch()
    else:
        os.truncate(tmp_path / "m.onnx.data", kept)

    assert expected in cure(raised(lambda: session(path, path.read_bytes())))


RUNNING: dict[str, tuple[onnx.ModelProto, dict[str, Any], str]] = {
    "sizes": (model(NEG), {"X": np.zeros((1, 3), np.float32)}, "does not take inputs of these sizes"),
    "rank": (model(NEG), {"X": np.zeros(2, np.float32)}, "does not take inputs of these sizes"),
    "inner sizes": (
        model(
            node("MatMul", ["X", "Z"], ["Y"]),
            takes={"X": (FLOAT, ["n", "k"]), "Z": (FLOAT, ["l", "m"])}, gives={"Y": (FLOAT, ["n", "m"])},
        ),
        {"X": np.zeros((2, 3), np.float32), "Z": np.zeros((4, 3), np.float32)},
        "does not take inputs of these sizes",
    ),
    "datatype": (model(NEG), {"X": np.zeros((1, 2))}, "correct data_type in config.pbtxt"),
    "index": (
        model(node("Gather", ["W", "X"], ["Y"]), takes={"X": (TensorProto.INT64, ["n"])}),
        {"X": np.array([100])},
        "a number that is larger than the model's table",
    ),
    "memory": (
        model(
            node("Expand", ["X", "S"], ["Y"]),
            takes={"X": (FLOAT, [1]), "S": (TensorProto.INT64, [1])}, gives={"Y": (FLOAT, [None])},
        ),
        {"X": np.zeros(1, np.float32), "S": np.array([2**42])},
        "lower max_batch_size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNNING)
def test_what_onnxruntime_says_of_a_request(tmp_path: Path, name: str) -> None:
    content, inputs, expected = RUNNING[name]
    loaded = session(tmp_path / "m.onnx", content)
    quiet = ort.RunOptions()
    quiet.log_severity_level = 4

    assert expected in cure(raised(lambda: loaded.run(None, inputs, quiet)))


class Net(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Embedding(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedding(x)


class Norm(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


class Image(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Sum(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x + y).view(2, 3)


def scripted(module: torch.nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


def changed(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of an archive with changed members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def reading(path: Path, **options: str) -> str:
    def read() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), **options)

    return raised(read)


def test_what_torch_says_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    scripted(Net()).save(str(path))
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:-200])
    newer = changed(path, tmp_path / "new.pt", lambda name, data: b"99\n" if name.endswith("/version") else data)
    call = (b"torch.linear(input, weight, bias)", b"ops.torchvision.nms(input, weight, 0.5)")
    vision = changed(
        path, tmp_path / "nms.pt", lambda name, data: data.replace(*call) if name.endswith(".py") else data
    )

    assert "not a whole model of this format" in cure(reading(cut))
    assert "pip install -U torch, or export it again" in cure(reading(newer))
    assert "needs the operator torchvision::nms, which comes from a package that" in cure(reading(vision))
    if not torch.cuda.is_available():
        assert "`nvidia-smi` must list it" in cure(reading(path, map_location="cuda:0"))


TORCH: dict[str, tuple[Callable[[], torch.nn.Module], list[torch.Tensor], str]] = {
    "sizes": (Net, [torch.zeros(1, 3)], "does not take inputs of these sizes"),
    "broadcast": (Sum, [torch.zeros(2, 3), torch.zeros(2, 4)], "does not take inputs of these sizes"),
    "view": (Sum, [torch.zeros(7), torch.zeros(7)], "does not take inputs of these sizes"),
    "channels": (Image, [torch.zeros(1, 4, 8, 8)], "does not take inputs of these sizes"),
    "small image": (Image, [torch.zeros(1, 3, 2, 2)], "does not take inputs of these sizes"),
    "rank": (Image, [torch.zeros(3)], "does not take inputs of these sizes"),
    "datatype": (Net, [torch.zeros(1, 4, dtype=torch.float64)], "correct data_type in config.pbtxt"),
    "image of integers": (Image, [torch.zeros(1, 3, 8, 8, dtype=torch.int64)], "correct data_type in config.pbtxt"),
    "indices of floats": (Embedding, [torch.zeros(1, 4)], "correct data_type in config.pbtxt"),
    "index": (Embedding, [torch.full((1, 4), 20)], "a number that is larger than the model's table"),
    "training": (Norm, [torch.zeros(1, 4)], "call model.eval() before the export"),
    "too few inputs": (Sum, [torch.zeros(1)], "are not those of the model's forward()"),
    "too many inputs": (Net, [torch.zeros(1, 4)] * 2, "are not those of the model's forward()"),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_what_torchscript_says_of_a_request(name: str) -> None:
    module, inputs, expected = TORCH[name]
    loaded = scripted(module())

    assert expected in cure(raised(lambda: loaded(*inputs)))


def test_what_an_exported_program_says_of_a_request() -> None:
    program = torch.export.export(Net(), (torch.zeros(3, 4),)).module()

    assert "does not take inputs of these sizes" in cure(raised(lambda: program(torch.zeros(2, 4))))


def test_what_torch_says_of_too_little_memory() -> None:
    assert "lower max_batch_size" in cure(raised(lambda: torch.zeros(2**44)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.80 GiB",
            "lower max_batch_size",
        ),
        (
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
            "`nvidia-smi` must list it",
        ),
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", "`nvidia-smi` must list it"),
        (
            "Serialized schema version SchemaVersion(major=9, minor=1) does not match our current schema version (8, 20).",
            "-U torch",
        ),
        (
            "SerializeError: We failed to resolve torch.ops.torchvision.nms.default to an operator.",
            "needs the operator torchvision.nms, which",
        ),
    ],
)
def test_what_needs_other_machines_to_provoke(text: str, expected: str) -> None:
    assert expected in cure(text)


def test_other_errors_have_none_and_keep_their_text() -> None:
    assert cure("division by zero") == ""
    assert with_cure("division by zero\n") == "division by zero"


@given(st.text())
def test_any_text_may_be_looked_at(text: str) -> None:
    assert with_cure(text).startswith(text.strip().rstrip("."))


def test_of_a_long_text_the_ends_are_searched() -> None:
    long = "x" * 10 * SEARCHED

    assert cure(f"{long} index out of range in self")
    assert not cure(f"{long} index out of range in self{long}")


def test_an_exception_gets_its_cure_and_keeps_its_type() -> None:
    error, other, bare = RuntimeError("index out of range in self"), OSError(2, "No such file"), ValueError()
    for each in (error, other, bare):
        add_cure(each)

    assert str(error).startswith("index out of range in self. What to do: an input holds")
    assert (other.args, bare.args) == ((2, "No such file"), ())
