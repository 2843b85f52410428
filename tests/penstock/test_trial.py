"""Which made-up inputs a loaded model takes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from penstock.cli.example import Server, Trial, example
from penstock.cli.trial import Trials
from protocol.errors import Code
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig
from protocol.tensors import from_array
from tests.workers.backends.test_torch_files import traced
from tests.workers.children import loader, version_of
from workers.instances.job import InstanceDied
from workers.instances.loaded import LoadedModel
from workers.repository.model_files import ModelFile
from workers.repository.scan import scan_file
from workers.repository.version import ModelVersion

SERVER = Server("127.0.0.1", 8000)


class Picky:
    """An instance that takes some shapes."""

    def __init__(self, takes: Callable[[tuple[int, ...]], bool], answer: object = ()) -> None:
        self.tried: list[tuple[int, ...]] = []
        self._takes = takes
        self._answer = answer

    async def attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
        shape = requests[0].inputs[0].shape
        self.tried.append(shape)
        if not self._takes(shape):
            raise ValueError(f"not {shape}\x1b[31m\n" + "x" * 1000)
        return [self._answer]


def loaded(
    executor: Picky, dims: Sequence[int], backend: str = "onnxruntime", datatype: str = "TYPE_FP32"
) -> LoadedModel:
    config = ModelConfig.from_json(
        {"name": "m", "backend": backend, "max_batch_size": 4, "input": [{"name": "x", "data_type": datatype, "dims": list(dims)}],
         "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}]}
    )  # fmt: skip
    version = ModelVersion("m", 1, Path("/nowhere"), Path("/nowhere"), config, "digest")
    return LoadedModel(version, cast("Any", [executor]), 0.0)


def test_the_first_shape_that_is_answered_is_the_examples() -> None:
    picky = Picky(lambda shape: shape[-1] >= 32)
    model = loaded(picky, [3, -1, -1])

    found = asyncio.run(Trials().run(model))

    assert found == Trial({"x": (1, 3, 32, 32)})
    assert picky.tried == [(1, 3, 1, 1), (1, 3, 8, 8), (1, 3, 32, 32)]
    assert "penstock infer m --random 1 --shape x=1,3,32,32 --url" in example(SERVER, model.version.config, found)


def test_a_model_that_takes_nothing_gets_advice_in_one_line_instead_of_a_command() -> None:
    model = loaded(Picky(lambda shape: False), [1], datatype="TYPE_INT64")

    found = asyncio.run(Trials().run(model))
    said = example(SERVER, model.version.config, found)

    assert "it refuses made-up inputs: ValueError: not (1, 1)\\x1b[31m xxx" in said
    assert "try:" not in said
    assert [len(line) < 500 for line in said.splitlines()] == [True] * 3
    assert said.endswith("  penstock infer m --random --url http://127.0.0.1:8000 -i 'x=[[NUMBER]]'")


def test_an_answer_that_is_a_failure_is_a_refusal() -> None:
    model = loaded(Picky(lambda shape: True, Failure(Code.MODEL_FAILED, "no")), [2])

    assert asyncio.run(Trials().run(model)) == Trial(refused="no")


def test_code_of_the_users_runs_only_when_somebody_asks_for_it() -> None:
    picky = Picky(lambda shape: True)
    model = loaded(picky, [-1], backend="python")

    found = asyncio.run(Trials().run(model))

    assert picky.tried == []
    assert "penstock infer m --random 1 --url" in example(SERVER, model.version.config, found)


def test_trying_ends_with_its_time() -> None:
    picky = Picky(lambda shape: False)

    assert asyncio.run(Trials(seconds=0.0).run(loaded(picky, [-1]))) == Trial()
    assert picky.tried == []


def test_an_attempt_that_takes_long_is_not_waited_for() -> None:
    class Slow(Picky):
        async def attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
            await asyncio.Event().wait()
            return []

    model = loaded(Slow(lambda shape: True), [-1])
    found = asyncio.run(Trials(longest=0.01).run(model))

    assert found == Trial(running=0.01)
    said = example(SERVER, model.version.config, found).splitlines()
    assert said[1].startswith("  penstock infer m --random 1 --url")
    assert said[2] == "  a made-up call has not been answered in 0.01 s; others wait until it is"


def test_what_a_model_took_while_it_was_loaded_is_not_tried_again() -> None:
    picky = Picky(lambda shape: True)
    model = loaded(picky, [3, -1, -1])
    model.shapes = {"x": (1, 3, 8, 8)}

    assert asyncio.run(Trials().run(model)) == Trial({"x": (1, 3, 8, 8)})
    assert picky.tried == []


def test_large_inputs_are_not_tried() -> None:
    """A server must not run out of memory for a line that it prints."""
    picky = Picky(lambda shape: True)
    model = loaded(picky, [3, 2048, 2048])

    found = asyncio.run(Trials().run(model))

    assert (found, picky.tried) == (Trial(), [])
    assert "one row has 50331648 bytes" in example(SERVER, model.version.config, found)


def test_no_size_is_tried_after_one_that_ended_the_instance() -> None:
    class Mortal(Picky):
        async def attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
            self.tried.append(requests[0].inputs[0].shape)
            raise InstanceDied("its process was ended by SIGKILL")

    mortal = Mortal(lambda shape: True)

    assert asyncio.run(Trials().run(loaded(mortal, [-1]))) == Trial()
    assert mortal.tried == [(1, 1)]


class Counting(torch.nn.Module):
    """Its rows are independent; the second output is how often it has run, too little beside the first element to count."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs.add_(1)
        ones = torch.ones_like(x[:, :1])
        return torch.cat([ones * 1e6, ones * self.runs], 1)


@pytest.mark.parametrize(("stated", "runs"), [
    ({}, 3), ({"max_batch_size": 4, "batch_size_stated": True}, 1),
])  # fmt: skip
async def test_how_often_a_model_runs_before_its_first_request(
    tmp_path: Path, stated: dict[str, Any], runs: int
) -> None:
    """Two rows alone, and together; where somebody says that it batches, once for the line that `serve` prints."""
    path = traced(tmp_path / "m.pt", Counting(), torch.zeros(2, 4))
    while_traced = float(torch.jit.load(str(path)).runs)  # type: ignore[no-untyped-call]
    version = scan_file(ModelFile(path))
    model = await loader().load(dataclasses.replace(version, config=dataclasses.replace(version.config, **stated)))
    try:
        assert await Trials().run(model) == Trial({"x": (1, 4)})
        request = InferRequest("id", "m", "1", (from_array("x", np.zeros((1, 4), np.float32)),))
        ((output,),) = await model.executors[0].attempt([request])
    finally:
        await model.close()
    assert output.array()[0, 1] == while_traced + runs + 1


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_python_code_runs_for_requests_only(tmp_path: Path, isolation: str) -> None:
    code = """
        import pathlib

        class Model:
            inputs = {"X": ("FP32", [-1])}
            outputs = {"Y": ("FP32", [-1])}

            def predict(self, X):
                with (pathlib.Path(__file__).parent / "runs").open("a") as file:
                    file.write("x")
                return {"Y": X}
    """
    config = f'backend: "python" parameters {{ key: "instance_isolation" value {{ string_value: "{isolation}" }} }}'
    version = version_of(tmp_path, code, config)
    model = await loader().load(version)
    assert await Trials().run(model) == Trial()
    await model.close()
    assert not (version.path.parent / "runs").exists()


def test_a_row_that_no_request_can_hold_is_said() -> None:
    large = loaded(Picky(lambda shape: True), [3, 2000, 1000]).version.config
    told = example(SERVER, large)
    assert "one row has 24000000 bytes, and a request holds at most 16777216" in told
    assert "curl" not in told
    assert "penstock infer" not in told
    small = loaded(Picky(lambda shape: True), [3, 1000, 1000]).version.config
    assert "penstock infer m --random 1" in example(SERVER, small)
