"""Which made-up inputs a loaded model takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from penstock.cli.example import Server, Trial, example
from penstock.cli.trial import Trials
from protocol.errors import Code
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig
from workers.instances.loaded import LoadedModel
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

    assert asyncio.run(Trials(longest=0.01).run(loaded(Slow(lambda shape: True), [-1]))) == Trial()
