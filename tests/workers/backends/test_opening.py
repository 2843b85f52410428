"""A file is read once by a process that inspects and serves it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tests.workers.backends.models import request, run
from tests.workers.backends.test_onnxruntime import save
from tests.workers.backends.test_torch_files import Net, exported, scripted, traced
from tests.workers.children import version_of
from workers.backends import load_backend
from workers.backends.base import Backend, Instance
from workers.backends.identity import IdentityBackend
from workers.backends.onnxruntime import OnnxBackend
from workers.backends.opening import load_version, open_version
from workers.backends.python import PythonBackend
from workers.backends.torch import TorchBackend
from workers.instances.process.executor import PARAMETER
from workers.lifecycle.loader import Loader
from workers.repository.completion import complete
from workers.repository.model_files import ModelFile
from workers.repository.placement import expected_place, place
from workers.repository.scan import scan_file
from workers.repository.stated_inputs import parse_input
from workers.repository.version import ModelVersion

CODE = """
class Model:
    inputs = {"x": ("FP32", [4])}
    outputs = {"y": ("FP32", [4])}

    def predict(self, x):
        return {"y": x * 2}
"""


def onnx_file(folder: Path) -> Path:
    tensor = (TensorProto.FLOAT, ["n", 4])
    return save(folder / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])], {"x": tensor}, {"y": tensor})


def python_file(folder: Path) -> Path:
    path = folder / "m.py"
    path.write_text(CODE)
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "ONNX": onnx_file,
    "TorchScript": lambda folder: traced(folder / "m.pt", Net(), torch.zeros(2, 4)),
    "Python": python_file,
}


def backend_of(version: ModelVersion) -> Backend:
    backend = load_backend(version.config.backend)
    if isinstance(backend, PythonBackend):
        backend.dedicated = True  # as in a child
    return backend


def opened_then_loaded(
    backend: Backend, version: ModelVersion, between: Callable[[], object], cores: int = 1
) -> Instance:
    metadata, opened = open_version(backend, version, expected_place(version.config, (), cores=1))
    between()
    config = complete(version.config, metadata)
    return load_version(
        backend, dataclasses.replace(version, config=config), place(config, (), cores)[0], opened
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_loading_what_was_opened_needs_the_file_no_more(tmp_path: Path, kind: str) -> None:
    version = scan_file(ModelFile(KINDS[kind](tmp_path)))

    instance = opened_then_loaded(backend_of(version), version, version.path.unlink)

    (answer,) = run(instance, [request(x=np.float32([[1, 5, 2, 3]]))])
    assert isinstance(answer, dict)
    instance.close()


def test_an_exported_program_states_everything_and_is_not_loaded_to_be_inspected(tmp_path: Path) -> None:
    version = scan_file(ModelFile(exported(tmp_path / "m.pt2", Net(), (torch.zeros(2, 4),))))

    metadata, opened = open_version(TorchBackend(), version, place(version.config, (), 1)[0])

    assert metadata is not None
    assert opened is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_backend_that_opens_nothing_is_inspected(tmp_path: Path, kind: str) -> None:
    version = scan_file(ModelFile(KINDS[kind](tmp_path)))
    backend = backend_of(version)

    metadata, opened = open_version(backend, version, None)

    assert metadata == backend.inspect(version)
    assert opened is None
    assert open_version(IdentityBackend(), version, place(version.config, (), 1)[0]) == (None, None)


def test_a_session_for_another_number_of_threads_is_made_anew(tmp_path: Path) -> None:
    version = scan_file(ModelFile(onnx_file(tmp_path)))
    looked_at: list[object] = []

    instance = opened_then_loaded(OnnxBackend(), version, lambda: looked_at.append(version.path.read_bytes()), cores=2)

    assert instance._session.get_session_options().intra_op_num_threads == 2  # type: ignore[attr-defined]


class Counter(torch.nn.Module):
    """Adds how often it has run, kept in a buffer, an attribute, a tensor that is no buffer, or a list."""

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.kept = kept
        self.register_buffer("buffer", torch.zeros(1))
        self.plain: torch.Tensor = torch.zeros(1)
        self.attribute: torch.Tensor = torch.zeros(1)
        self.values: list[torch.Tensor] = [torch.zeros(1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept == "buffer":
            self.buffer.add_(1)
        elif self.kept == "plain":
            self.plain[0] += 1
        elif self.kept == "attribute":
            self.attribute = self.attribute + 1
        else:
            self.values[0] = self.values[0] + 1
        return x + self.buffer + self.plain + self.attribute + self.values[0]


@pytest.mark.parametrize("kept", ["buffer", "plain", "attribute", "list"])
def test_runs_of_zeros_leave_no_mark_in_what_is_served(tmp_path: Path, kept: str) -> None:
    path = scripted(tmp_path / "m.pt", Counter(kept))
    version = scan_file(ModelFile(path, inputs=(parse_input("x:FP32:4"),)))

    instance = opened_then_loaded(TorchBackend(), version, lambda: None)

    (answer,) = run(instance, [request(x=np.float32([[0, 0, 0, 0]]))])
    assert isinstance(answer, dict)
    assert answer["OUTPUT__0"].tolist() == [[1, 1, 1, 1]]


COUNTED = """
import pathlib

with (pathlib.Path(__file__).parent / "imports").open("a") as file:
    file.write("x")

class Model:
    inputs = {"x": ("FP32", [4])}
    outputs = {"y": ("FP32", [4])}

    def predict(self, x):
        return {"y": x}
"""


@pytest.mark.parametrize(("isolation", "instances", "imports"), [
    ("process", 1, 1), ("process", 3, 3), ("thread", 1, 2),
])  # fmt: skip
async def test_how_often_a_python_file_is_imported(
    tmp_path: Path, isolation: str, instances: int, imports: int
) -> None:
    config = f'backend: "python" instance_group [ {{ count: {instances} }} ]'
    config += f' parameters {{ key: "{PARAMETER}" value {{ string_value: "{isolation}" }} }}'
    version = version_of(tmp_path, COUNTED, config)

    loaded = await Loader((), 2, 32, 2, lambda: 0.0).load(version)
    await loaded.close()

    assert (version.path.parent / "imports").read_text() == "x" * imports
