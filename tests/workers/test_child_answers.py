"""A model in a child answers as it does in a thread: every datatype, shape, choice of outputs and failure."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import Code, ConfigError, FleetError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.model_config import Kind, ModelConfig
from protocol.tensors import ITEM_SIZE, Tensor, from_array
from tests.workers.children import (
    CONFIG,
    ECHO,
    EXIT,
    LEAVE,
    NOTHING,
    RAISE,
    column,
    loader,
    plain,
    request,
    running,
    version_of,
)  # fmt: skip
from tests.workers.fleet import IDENTITY
from workers.instances.executor import ThreadExecutor
from workers.instances.job import ModelRaised, failure_message
from workers.instances.process.executor import is_isolated
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion

SIDES = """
backend: "identity" max_batch_size: 8
input [ %s ]
output [ %s ]
"""
ISOLATED = 'parameters { key: "instance_isolation" value { string_value: "%s" } }'
WORKSHOP = """
    import numpy as np
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            responses = []
            for request in requests:
                if request.parameters().find("fail") >= 0:
                    error = pb_utils.TritonError("no " + request.request_id(), pb_utils.TritonError.INVALID_ARG)
                    responses.append(pb_utils.InferenceResponse([], error))
                    continue
                given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
                count = np.full((len(given["A"]), 1), len(given), np.int64)
                outputs = [pb_utils.Tensor("COUNT", count), pb_utils.Tensor("COPY", given.get("B", given["A"]))]
                responses.append(pb_utils.InferenceResponse(outputs))
            return responses
"""
OPTIONAL = """
backend: "python" max_batch_size: 8
input [ { name: "A" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "B" data_type: TYPE_FP32 dims: [ 2 ] optional: true } ]
output [ { name: "COUNT" data_type: TYPE_INT64 dims: [ 1 ] }, { name: "COPY" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""


async def both(version: ModelVersion, *requests: InferRequest) -> tuple[list[object], list[object]]:
    """What the model answers in a thread, and what it answers in a child."""
    answers = []
    for isolation in ("thread", "process"):
        parameters = version.config.parameters | {"instance_isolation": isolation}
        config = dataclasses.replace(version.config, parameters=parameters)
        async with running(dataclasses.replace(version, config=config)) as model:
            assert model.loaded.executors[0].isolated == (isolation == "process")
            answers.append([plain(outcome) for outcome in await model.ask(*requests)])
    return answers[0], answers[1]


async def test_every_datatype_comes_back_as_it_went(tmp_path: Path) -> None:
    names = sorted(ITEM_SIZE)
    sides = [
        ", ".join(
            f'{{ name: "{side}{name}" data_type: TYPE_{"STRING" if name == "BYTES" else name} dims: [ 3 ] }}'
            for name in names
        )
        for side in "XY"
    ]
    version = version_of(tmp_path, "", SIDES % tuple(sides))

    def of(rows: int, label: str) -> InferRequest:
        tensors = tuple(dataclasses.replace(column(name, rows), name=f"X{name}") for name in names)
        return InferRequest("id", "m", "1", tensors, label=label)

    in_thread, in_child = await both(version, of(1, "a"), of(2, "b"), of(0, "c"))

    assert in_child == in_thread
    first: list[tuple[str, str, tuple[int, ...], bytes]] = in_child[1]  # type: ignore[assignment]
    assert [(name, kind, shape) for name, kind, shape, _ in first] == [(f"Y{name}", name, (2, 3)) for name in names]
    assert [data for *_, data in first] == [bytes(column(name, 2).data) for name in names]


async def test_optional_inputs_wanted_outputs_and_single_failures(tmp_path: Path) -> None:
    version = version_of(tmp_path, WORKSHOP, OPTIONAL)
    a, b = (from_array(name, np.full((2, 2), value, np.float32)) for name, value in (("A", 1), ("B", 2)))
    requests = [
        InferRequest("1", "m", "1", (a,)),
        InferRequest("2", "m", "1", (a, b), outputs=("COPY",)),
        InferRequest("3", "m", "1", (a, b), parameters={"fail": True}, label="thanks"),
        InferRequest("4", "m", "1", (a, b), outputs=("COPY", "COUNT")),
    ]

    in_thread, in_child = await both(version, *requests)

    assert in_child == in_thread
    assert in_child[2] == Failure(Code.INVALID_ARGUMENT, "no thanks")
    assert [name for name, *_ in in_child[3]] == ["COPY", "COUNT"]  # type: ignore[attr-defined]


async def test_batches_larger_than_the_shared_memory_replace_it(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        for size in (10, 3_000_000, 100, 9_000_000, 9_000_000):
            array = np.arange(size, dtype=np.float32)[None]

            (outcome,) = await model.ask(InferRequest("id", "m", "1", (from_array("X", array),)))

            assert isinstance(outcome, tuple)
            np.testing.assert_array_equal(outcome[0].array(), array + 1)


async def test_answers_stay_as_they_are_while_later_batches_run(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        (first,) = await model.ask(request(*range(1000)))
        assert isinstance(first, tuple)
        for _ in range(3):
            await model.ask(request(*[0.0] * 1000))

        assert first[0].array()[0].tolist() == list(range(1, 1001))


async def test_inputs_that_a_model_keeps_stay_as_they_were(tmp_path: Path) -> None:
    code = """
        class Model:
            kept = []
            def predict(self, X):
                self.kept.append(X)
                return {"Y": self.kept[0]}
    """
    async with running(version_of(tmp_path, code)) as model:
        assert [await model.value(value) for value in (1.0, 2.0, 3.0)] == [[1.0]] * 3


@pytest.mark.parametrize("order", [1.0, ECHO, RAISE, NOTHING])
async def test_shared_memory_is_used_again_and_again(tmp_path: Path, order: float) -> None:
    async with running(version_of(tmp_path)) as model:
        job = model.job(request(order))
        slot, segment = job.prepared.slot, job.prepared.slot.segment
        model.child.submit(job)
        del job
        del (await model.back()).prepared

        again = model.child.prepare([request(1.0)])
        assert again.slot is slot
        assert again.slot.segment is segment


async def test_each_instance_is_a_process_and_two_batches_run_at_once(tmp_path: Path) -> None:
    # Opening a named pipe waits until its other end is opened: a batch ends only if the other one runs too.
    code = """
        import os, pathlib
        import numpy as np
        HERE = pathlib.Path(__file__).parent

        class Model:
            def predict(self, X):
                for number in (0, 1):
                    open(HERE / f"pipe-{number}", "w" if number == X[0, 0] else "r").close()
                return {"Y": np.full((1, 1), os.getpid(), np.float32)}
    """
    version = version_of(tmp_path, code, CONFIG + "instance_group [ { count: 2 } ]")
    for number in (0, 1):
        os.mkfifo(version.path.parent / f"pipe-{number}")
    async with running(version) as model:
        for number, executor in enumerate(model.loaded.executors):
            model.submit(request(number), executor=executor)
        jobs = [await model.back(), await model.back()]

        assert [job.error for job in jobs] == [None, None]
        assert len({job.raw[0][0].array().item() for job in jobs}) == 2


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (RAISE, "ValueError: a bad number"),
        (LEAVE, "SystemExit: exited with code 1: no more"),
        (NOTHING, "model 'm' returned no output 'Y'; it returned []"),
    ],
)
async def test_a_failing_batch_keeps_the_models_words_and_the_child_goes_on(
    tmp_path: Path, order: float, text: str
) -> None:
    version = version_of(tmp_path)
    async with running(version) as model:
        pid = model.child.pid
        with pytest.raises(ModelFailed) as failed:
            await model.ask(request(order))
        message, _, places = failure_message("m_0_0", failed.value).partition("\n\nAt:\n")
        assert message == f"Failed to process the request(s) for model 'm_0_0', message: {text}"
        assert bool(places) == (order != NOTHING)
        assert await model.value(1.0) == [2.0]
        assert model.child.pid == pid
        assert model.child.restarts == 0


async def test_an_error_tells_the_classes_of_the_exception(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        job = await model.run(request(RAISE))
        assert isinstance(job.error, ModelRaised)
        assert job.error.kinds == ("ValueError", "Exception", "BaseException")
        assert 0 < job.compute_start <= job.compute_end
        job = await model.run(request(NOTHING))
        assert job.error is None  # it ran, and could not be split
        with pytest.raises(ModelRaised) as refused:
            model.child.split(job.requests, job.raw)
        assert refused.value.kinds[0] == "ModelFailed"


async def test_an_output_that_is_the_input_is_answered(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        for number in range(3):
            assert await model.value(ECHO, number) == [ECHO, number]


async def test_what_a_stranger_sends_is_refused_as_in_a_thread(tmp_path: Path) -> None:
    version = version_of(tmp_path, "", IDENTITY + ISOLATED % "process")
    broken = InferRequest("id", "m", "1", (Tensor("X", "FP32", (1, 3), b"\0" * 8),))
    async with running(version) as model:
        with pytest.raises(FleetError):
            await model.ask(broken)
        assert await model.value(5.0) == [5.0]


async def test_late_and_withdrawn_batches_come_back_without_having_run(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as model:
        late, withdrawn, just = (model.job(request(order)) for order in (EXIT, EXIT, 1.0))
        late.not_after, withdrawn.withdrawn = 1.0, True
        for job in (late, withdrawn, just):
            model.child.submit(job)
        jobs = [await model.back() for _ in range(3)]

        assert [job.stale for job in jobs] == [True, True, False]
        assert model.child.restarts == 0


async def test_the_parameter_chooses_and_refuses_other_words(tmp_path: Path) -> None:
    in_thread = version_of(tmp_path / "a", config=CONFIG + ISOLATED % "thread")
    async with running(in_thread) as model:
        assert isinstance(model.loaded.executors[0], ThreadExecutor)
    with pytest.raises(ConfigError, match="'instance_isolation' of m must be process or thread, not 'fork'"):
        await loader().load(version_of(tmp_path / "b", config=CONFIG + ISOLATED % "fork"))


@pytest.mark.parametrize(("backend", "isolated"), [("python", True), ("pytorch", True), ("onnxruntime", False)])
def test_what_runs_strangers_code_or_holds_the_interpreter_at_its_import_is_isolated_by_default(
    backend: str, isolated: bool
) -> None:
    assert is_isolated(ModelConfig(name="m", backend=backend)) is isolated


@pytest.mark.parametrize(("kind", "isolated"), [(Kind.GPU, True), (Kind.CPU, False), (Kind.MODEL, False)])
def test_on_a_gpu_every_model_is_isolated_unless_it_says_otherwise(kind: Kind, isolated: bool) -> None:
    placements = [Placement("m_0_0", Kind.CPU, None, 1), Placement("m_1_0", kind, 0 if kind is Kind.GPU else None, 1)]
    assert is_isolated(ModelConfig(name="m", backend="onnxruntime"), placements) is isolated
    in_thread = ModelConfig(name="m", backend="onnxruntime", parameters={"instance_isolation": "thread"})
    assert not is_isolated(in_thread, placements)
