from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from protocol.errors import ConfigError, ModelFailed
from tests.workers.backends.models import load, request, run, version_of
from tests.workers.children import running
from workers.backends.torch import TorchBackend


class Scale(torch.nn.Module):
    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * factor, x + factor


CONFIG = """
backend: "pytorch" max_batch_size: 8
input [ { name: "%s" data_type: TYPE_FP32 dims: [2] }, { name: "%s" data_type: TYPE_FP32 dims: [1] } ]
output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2] }, { name: "OUTPUT__1" data_type: TYPE_FP32 dims: [2] } ]
"""


def script(module: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))


def folder(root: Path, inputs: tuple[str, str]) -> Path:
    (root / "scale" / "1").mkdir(parents=True)
    (root / "scale" / "config.pbtxt").write_text(CONFIG % inputs)
    return root / "scale" / "1"


BATCH = {"x": np.float32([[1, 2]]), "factor": np.float32([[3]])}


@pytest.mark.parametrize("names", [("INPUT__0", "INPUT__1"), ("x", "factor"), ("factor", "x")])
def test_torchscript_binds_tensors_by_number_or_by_parameter_name(tmp_path: Path, names: tuple[str, str]) -> None:
    config = CONFIG % names
    if names[0] == "factor":  # the configuration's order is not forward's: the parameter names decide
        config = config.replace("dims: [2] },", "dims: [1] },", 1).replace('name: "x" data_type: TYPE_FP32 dims: [1]', 'name: "x" data_type: TYPE_FP32 dims: [2]')  # noqa: E501 # fmt: skip
    script(Scale(), folder(tmp_path, names) / "model.pt")
    (tmp_path / "scale" / "config.pbtxt").write_text(config)
    instance = load(TorchBackend(), version_of(tmp_path, "scale"))
    values = BATCH if "x" in names else {"INPUT__0": BATCH["x"], "INPUT__1": BATCH["factor"]}

    answers = run(instance, [request(**{name: values[name] for name in names}) for _ in range(2)])

    for answer in answers:
        np.testing.assert_array_equal(answer["OUTPUT__0"], [[3, 6]])
        np.testing.assert_array_equal(answer["OUTPUT__1"], [[4, 5]])


def batching_program() -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows", min=1, max=8)
    return torch.export.export(Scale(), (torch.zeros(2, 2), torch.zeros(2, 1)), dynamic_shapes=({0: rows}, {0: rows}))


def test_an_exported_program_runs(tmp_path: Path) -> None:
    torch.export.save(batching_program(), str(folder(tmp_path, ("a", "b")) / "model.pt2"))
    instance = load(TorchBackend(), version_of(tmp_path, "scale"))

    answers = run(instance, [request(a=BATCH["x"], b=BATCH["factor"]) for _ in range(3)])

    assert [answer["OUTPUT__0"].tolist() for answer in answers] == [[[3.0, 6.0]]] * 3


def test_an_exported_program_with_python_objects_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    place, proof, objects = folder(tmp_path, ("a", "b")), tmp_path / "it-ran", io.BytesIO()
    torch.export.save(batching_program(), str(tmp_path / "good.pt2"))
    torch.save({"x": Proof(proof)}, objects)
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(place / "model.pt2", "w") as made:
        for name in good.namelist():
            made.writestr(name, objects.getvalue() if name.endswith("sample_inputs/model.pt") else good.read(name))
    with pytest.raises(ConfigError, match="torch cannot load model 'scale'"):
        load(TorchBackend(), version_of(tmp_path, "scale"))
    assert not proof.exists()


class Proof:
    """Unpickling it writes a file: if that happens, code from a repository has run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickled_model_is_refused_without_running_it(tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    version = folder(tmp_path, ("a", "b"))
    (version / "model.pt").write_bytes(pickle.dumps(Proof(proof)))
    with pytest.raises(ConfigError, match=r"expected TorchScript.*pickled modules are refused"):
        load(TorchBackend(), version_of(tmp_path, "scale"))

    torch.save(Proof(proof), version / "model.pt")
    with pytest.raises(ConfigError, match="expected TorchScript"):
        load(TorchBackend(), version_of(tmp_path, "scale"))

    assert not proof.exists()


def test_too_few_outputs_are_the_models_fault(tmp_path: Path) -> None:
    class One(torch.nn.Module):
        def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
            return x * factor

    script(One(), folder(tmp_path, ("x", "factor")) / "model.pt")
    instance = load(TorchBackend(), version_of(tmp_path, "scale"))

    with pytest.raises(ModelFailed, match=r"returned 1 output\(s\); its configuration names 2"):
        run(instance, [request(**BATCH)])


def test_bfloat16_goes_through_as_its_bits(tmp_path: Path) -> None:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    version = folder(tmp_path, ("x", "factor"))
    script(Double(), version / "model.pt")
    (tmp_path / "scale" / "config.pbtxt").write_text(
        'backend: "pytorch" max_batch_size: 8 input [ { name: "x" data_type: TYPE_BF16 dims: [1] } ] '
        'output [ { name: "y" data_type: TYPE_BF16 dims: [1] } ]'
    )
    instance = load(TorchBackend(), version_of(tmp_path, "scale"))
    one = torch.tensor([[1.5]], dtype=torch.bfloat16).view(torch.uint16).numpy()
    asked = request(x=one)
    asked.inputs[0].datatype = "BF16"

    (answer,) = run(instance, [asked])

    assert torch.from_numpy(answer["y"].copy()).view(torch.bfloat16).item() == 3.0


async def test_its_processes_are_forks_of_one_that_has_imported_torch(tmp_path: Path) -> None:
    config = CONFIG % ("x", "factor") + "instance_group [ { count: 2 } ]"
    script(Scale(), folder(tmp_path, ("x", "factor")) / "model.pt")
    (tmp_path / "scale" / "config.pbtxt").write_text(config)
    async with running(version_of(tmp_path, "scale")) as model:
        pids = [executor.pid for executor in model.loaded.executors]  # type: ignore[attr-defined]
        forkservers = {psutil.Process(pid).ppid() for pid in pids}
        assert len(set(pids)) == 2
        (forkserver,) = forkservers
        assert any("/torch/" in mapped.path for mapped in psutil.Process(forkserver).memory_maps())
        (outcome,) = await model.ask(request(**BATCH))
        assert outcome[0].array().tolist() == [[3.0, 6.0]]  # type: ignore[index,union-attr]
