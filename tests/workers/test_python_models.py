"""A Python model's inputs and outputs, in a thread and in its own process: the same under any load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from protocol.errors import Code, ConfigError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.tensors import Array, from_array
from tests.workers.children import CONFIG, loader, request, running, version_of
from workers.instances.job import failure_message
from workers.repository.version import ModelVersion

BOTH = pytest.mark.parametrize("isolation", ["thread", "process"])
SHORT = """
    class Model:
        def predict(self, X):
            X += 1
            if (X == 0).any():
                raise ValueError("a bad number")
            return {"Y": X}
"""
TRITON = """
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            responses = []
            for request in requests:
                x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
                x += 1
                if (x == 0).any():
                    raise ValueError("a bad number")
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x)]))
            return responses
"""
SHORT_BUFFER = """
    import numpy as np

    class Model:
        def __init__(self):
            self.buffer = np.zeros((64, 1), np.float32)

        def predict(self, X):
            np.add(X, 1, out=self.buffer[:len(X)])
            return {"Y": self.buffer[:len(X)]}
"""
TRITON_BUFFER = """
    import numpy as np
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def initialize(self, args):
            self.buffer = np.zeros((64, 1), np.float32)
            self.tensor = pb_utils.Tensor("Y", self.buffer[:1])
            self.responses = [pb_utils.InferenceResponse([self.tensor])]

        def execute(self, requests):
            if len(requests) == 1:
                self.buffer[:1] = requests[0].inputs()[0].as_numpy() + 1
                return self.responses
            responses = []
            for row, request in enumerate(requests):
                self.buffer[row] = request.inputs()[0].as_numpy() + 1
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", self.buffer[row:row + 1])]))
            return responses
"""


def chosen(version: ModelVersion, isolation: str) -> ModelVersion:
    parameters = version.config.parameters | {"instance_isolation": isolation}
    return dataclasses.replace(version, config=dataclasses.replace(version.config, parameters=parameters))


def values(outcome: Any) -> list[Any]:
    assert isinstance(outcome, tuple), outcome
    return [tensor.array().tolist() for tensor in outcome]


@BOTH
@pytest.mark.parametrize("code", [SHORT, TRITON])
async def test_inputs_can_be_written_to_alone_and_in_a_batch_and_a_rerun_sees_them_as_they_were(
    tmp_path: Path, code: str, isolation: str
) -> None:
    async with running(chosen(version_of(tmp_path, code), isolation)) as model:
        for _ in range(2):
            assert await model.value(1.0) == [2.0]
        requests = [request(1.0), request(-1.0), request(3.0)]
        with pytest.raises((ModelFailed, ValueError), match="a bad number"):
            await model.ask(*requests)
        for number, answer in ((0, 2.0), (2, 4.0), (0, 2.0)):  # the same requests again, as an isolated batch runs them
            (outcome,) = await model.ask(requests[number])
            assert values(outcome) == [[[answer]]]
        assert [values(each) for each in await model.ask(requests[0], requests[2])] == [[[[2.0]]], [[[4.0]]]]
        assert [bytes(each.inputs[0].data) for each in requests] == [np.float32(v).tobytes() for v in (1, -1, 3)]


@BOTH
@pytest.mark.parametrize("code", [SHORT_BUFFER, TRITON_BUFFER])
@pytest.mark.parametrize("rows", [1, 3])
async def test_a_model_that_uses_its_buffer_again_gives_nobody_the_answers_of_another_batch(
    tmp_path: Path, code: str, rows: int, isolation: str
) -> None:
    async with running(chosen(version_of(tmp_path, code), isolation)) as model:
        batches = [[request(10.0 * number + row) for row in range(rows)] for number in range(8)]
        for batch in batches:
            model.submit(*batch)
        jobs = [await model.back() for _ in batches]  # all have run before the first is split
        answers = [[values(each) for each in job.executor.split(job.requests, job.raw)] for job in jobs]

    assert answers == [[[[[10.0 * number + row + 1]]] for row in range(rows)] for number in range(8)]


async def test_large_fresh_outputs_are_not_copied(tmp_path: Path) -> None:
    code = """
        import numpy as np
        import triton_python_backend_utils as pb_utils
        ADDRESSES = []

        class TritonPythonModel:
            def execute(self, requests):
                made = [np.repeat(request.inputs()[0].as_numpy(), 8192, axis=-1) for request in requests]
                ADDRESSES[:] = [each.__array_interface__["data"][0] for each in made]
                return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", each)]) for each in made]

            def finalize(self):
                pass
    """
    async with running(chosen(version_of(tmp_path, code), "thread")) as model:
        job = await model.run(request(1.0), request(2.0))
        executor: Any = job.executor
        addresses = executor._instance._model.execute.__globals__["ADDRESSES"]
        held = [np.frombuffer(each[0].data, np.float32) for each in executor.split(job.requests, job.raw)]
        assert [each.__array_interface__["data"][0] for each in held] == addresses


RESHAPED = """
backend: "python" max_batch_size: %d
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1, 4 ] reshape { shape: [ -1, 2, 2 ] } },
        { name: "S" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ %s ] } } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1, 4 ] reshape { shape: [ -1, 2, 2 ] } },
         { name: "N" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ %s ] } } ]
"""


@BOTH
@pytest.mark.parametrize("rows", [0, 2])
async def test_python_models_see_and_give_reshaped_tensors(tmp_path: Path, rows: int, isolation: str) -> None:
    code = """
        import numpy as np
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                responses = []
                for request in requests:
                    x, s = (tensor.as_numpy() for tensor in request.inputs())
                    assert x.shape == (*ROWS, 3, 2, 2) and s.shape == SCALARS, (x.shape, s.shape)
                    outputs = [pb_utils.Tensor("Y", x + 1), pb_utils.Tensor("N", np.full(s.shape, x.ndim, np.int64))]
                    responses.append(pb_utils.InferenceResponse(outputs))
                return responses
    """
    shape = (rows,) if rows else ()
    code = code.replace("ROWS", repr(shape)).replace("SCALARS", repr(shape))
    version = version_of(tmp_path, code, RESHAPED % (rows, "", ""))
    x: Array = np.arange(12 * (rows or 1), dtype=np.float32).reshape(*shape, 3, 4)
    s: Array = np.ones((*shape, 1), np.float32)
    given = InferRequest("id", "m", "1", (from_array("X", x), from_array("S", s)))
    async with running(chosen(version, isolation)) as model:
        (outcome,) = await model.ask(given)

    assert isinstance(outcome, tuple)
    assert [(each.name, each.shape) for each in outcome] == [("Y", (*shape, 3, 4)), ("N", (*shape, 1))]
    np.testing.assert_array_equal(outcome[0].array(), x + 1)
    assert outcome[1].array().ravel().tolist() == [3 + len(shape)] * (rows or 1)


@BOTH
async def test_an_output_without_dimensions_has_none(tmp_path: Path, isolation: str) -> None:
    code = """
        import numpy as np
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array(7, np.float32))]) for _ in requests]
    """
    async with running(
        chosen(version_of(tmp_path, code, CONFIG.replace("max_batch_size: 64", "max_batch_size: 0")), isolation)
    ) as model:
        (outcome,) = await model.ask(InferRequest("id", "m", "1", (from_array("X", np.ones(1, np.float32)),)))

    assert isinstance(outcome, tuple)
    assert [(each.shape, each.array().tolist()) for each in outcome] == [((), 7.0)]


@BOTH
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UNKNOWN", Code.INVALID_ARGUMENT),
        ("INTERNAL", Code.MODEL_FAILED),
        ("NOT_FOUND", Code.NOT_FOUND),
        ("INVALID_ARG", Code.INVALID_ARGUMENT),
        ("UNAVAILABLE", Code.UNAVAILABLE),
        ("UNSUPPORTED", Code.UNSUPPORTED),
        ("ALREADY_EXISTS", Code.INVALID_ARGUMENT),
        ("CANCELLED", Code.CANCELLED),
    ],
)
async def test_the_codes_of_a_models_errors_are_tritons(tmp_path: Path, name: str, code: Code, isolation: str) -> None:
    source = f"""
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                error = pb_utils.TritonError("so it is", pb_utils.TritonError.{name})
                return [pb_utils.InferenceResponse([], error) for _ in requests]
    """
    async with running(chosen(version_of(tmp_path, source), isolation)) as model:
        assert await model.ask(request(1.0)) == [Failure(code, "so it is")]


RAISING = {
    "triton": """
        import triton_python_backend_utils as pb_utils

        def check(requests):
            raise pb_utils.TritonModelException("not today")

        class TritonPythonModel:
            def execute(self, requests):
                check(requests)
    """,
    "short": """
        class TritonModelException(Exception):
            pass

        def check(X):
            raise TritonModelException("not today")

        class Model:

            def predict(self, X):
                check(X)
    """,
}


@BOTH
@pytest.mark.parametrize("form", ["triton", "short"])
async def test_an_exception_is_told_with_its_places_as_triton_tells_it(
    tmp_path: Path, form: str, isolation: str
) -> None:
    version = version_of(tmp_path, RAISING[form])
    async with running(chosen(version, isolation)) as model:
        job = await model.run(request(1.0))
        assert job.error is not None
        message = failure_message("m_0_0", job.error)

    called = "execute" if form == "triton" else "predict"
    lines = (5, 9) if form == "triton" else (6, 11)
    assert message == (
        "Failed to process the request(s) for model 'm_0_0', message: TritonModelException: not today\n\nAt:\n"
        f"  {version.path}({lines[0]}): check\n  {version.path}({lines[1]}): {called}\n"
    )


@BOTH
async def test_a_model_that_ends_its_process_while_it_loads_is_refused_with_its_exit_code(
    tmp_path: Path, isolation: str
) -> None:
    code = """
        import sys, threading, time

        class Model:
            def __init__(self):
                threading.Thread(target=time.sleep, args=(5,)).start()  # the interpreter waits for it at its end
                sys.exit(3)

            def predict(self, X):
                return {"Y": X}
    """
    version = chosen(version_of(tmp_path, code), isolation)
    with pytest.raises(
        ConfigError, match=r"exited with code 3 \(.*model.py:\d+.*\); it called sys.exit, but a model must raise"
    ) as refused:
        await loader().load(version)
    assert "model.py:7, in __init__" in refused.value.message


async def test_nothing_of_a_failing_batch_is_printed_line_by_line(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with running(version_of(tmp_path, RAISING["triton"])) as model:
            job = await model.run(request(1.0))
    assert "not today" in str(job.error)
    assert [line for line in logs if "Traceback" in line["event"] or "not today" in line["event"]] == []


WITHOUT = {
    "triton": """
        import numpy as np
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                made = [[pb_utils.Tensor("Y", np.full(1, len(r.inputs()), np.float32))] if OUTPUT else [] for r in requests]
                return [pb_utils.InferenceResponse(tensors) for tensors in made]
    """,
    "short": """
        import numpy as np

        class Model:
            def predict(self, **inputs):
                return {"Y": np.full(1, len(inputs), np.float32)} if OUTPUT else {}
    """,
}


@BOTH
@pytest.mark.parametrize("form", ["triton", "short"])
@pytest.mark.parametrize("side", ["input", "output"])
async def test_a_model_may_have_no_inputs_or_no_outputs(tmp_path: Path, form: str, side: str, isolation: str) -> None:
    config = 'backend: "python" max_batch_size: 0 '
    config += 'input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]' if side == "output" else ""
    config += 'output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]' if side == "input" else ""
    code = WITHOUT[form].replace("OUTPUT", str(side == "input"))
    if form == "short":
        code = code.replace("class Model:", f"class Model:\n            max_batch_size, {side}s = 0, {{}}")
    given = (from_array("X", np.ones(1, np.float32)),) if side == "output" else ()
    async with running(chosen(version_of(tmp_path, code, config), isolation)) as model:
        (outcome,) = await model.ask(InferRequest("id", "m", "1", given))
    assert values(outcome) == ([[0.0]] if side == "input" else [])
