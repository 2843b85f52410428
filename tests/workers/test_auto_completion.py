"""What each backend adds to a configuration, and what `--disable-auto-complete-config` and `--model-config-name` change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import ConfigError
from protocol.messages import InferRequest, ModelState
from protocol.model_config import ModelConfig
from protocol.tensors import from_array
from tests.workers.backends.test_onnxruntime import adder
from tests.workers.fleet import CHANNEL, IDENTITY, fleet, values, write_model
from tests.workers.test_models import state

AUTO = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        assert config.as_dict()["max_batch_size"] == %d
        config.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [-1]})
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [-1]})
        config.set_max_batch_size(%d)
        config.set_dynamic_batching()
        return config

    def execute(self, requests):
        return []
"""
STATED = 'max_batch_size: 4 input { name: "X" data_type: TYPE_FP32 dims: -1 } output { name: "Y" data_type: TYPE_FP32 dims: -1 }'


async def completed(tmp_path: Path, **settings: object) -> ModelConfig:
    """Model m as a worker announces it."""
    async with fleet(tmp_path) as f:
        await f.worker(exit_on_error=False, **settings)
        entry = state(f, "m")
        if entry.state is not ModelState.READY:
            raise ConfigError(entry.reason)
        return ModelConfig.from_json(entry.config)


async def test_onnx_files_say_everything(tmp_path: Path) -> None:
    adder(tmp_path / "m" / "1" / "model.onnx")
    config = await completed(tmp_path, default_max_batch_size=4)

    assert (config.backend, config.platform, config.default_model_filename) == (
        "onnxruntime",
        "onnxruntime_onnx",
        "model.onnx",
    )
    assert [(spec.name, spec.datatype, spec.dims) for spec in config.inputs] == [
        ("A", "FP32", (2,)),
        ("B", "FP32", (2,)),
    ]
    assert (config.max_batch_size, config.instance_groups[0].count) == (4, 1)
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.preferred_batch_sizes == (4,)


async def test_onnx_files_with_fixed_rows_do_not_batch(tmp_path: Path) -> None:
    adder(tmp_path / "m" / "1" / "model.onnx", rows=3)
    config = await completed(tmp_path)

    assert (config.max_batch_size, config.inputs[0].dims, config.dynamic_batching) == (0, (3, 2), None)


async def test_python_models_say_what_they_want(tmp_path: Path) -> None:
    write_model(tmp_path, "m", "", {"model.py": AUTO % (0, 6)})
    config = await completed(tmp_path)

    assert (config.backend, config.max_batch_size, config.inputs[0].name) == ("python", 6, "X")
    assert config.dynamic_batching is not None


async def test_a_python_model_may_not_lower_the_stated_batch_size(tmp_path: Path) -> None:
    write_model(tmp_path, "m", "max_batch_size: 8", {"model.py": AUTO % (8, 4)})
    with pytest.raises(
        ConfigError, match="configuration specified max_batch_size 8, but in auto-complete config function"
    ):
        await completed(tmp_path)


async def test_identity_models_say_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "m", 'backend: "identity"')
    with pytest.raises(ConfigError, match="model configuration must specify at least one 'input' for m"):
        await completed(tmp_path)


@pytest.mark.parametrize("backend", ["onnxruntime", "python", "identity"])
async def test_without_auto_completion_a_whole_configuration_is_served_as_stated(tmp_path: Path, backend: str) -> None:
    config = STATED
    if backend == "onnxruntime":
        config = config.replace('"X"', '"A"').replace('"Y"', '"SUM"').replace("dims: -1", "dims: 2")
        config += 'input { name: "B" data_type: TYPE_FP32 dims: 2 }'
    write_model(tmp_path, "m", f'backend: "{backend}" {config}', {"model.py": AUTO % (99, 99)})
    adder(tmp_path / "m" / "1" / "model.onnx")
    made = await completed(tmp_path, auto_complete_config=False)

    assert (made.max_batch_size, made.dynamic_batching) == (4, None)
    assert made.instance_groups[0].name == "m_0"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("", "model configuration must specify at least one 'input' for m"),
        (
            'input { name: "A" data_type: TYPE_FP32 dims: 2 }',
            "model configuration must specify at least one 'output' for m",
        ),
    ],
)
async def test_without_auto_completion_what_is_left_out_is_refused(tmp_path: Path, config: str, reason: str) -> None:
    write_model(tmp_path, "m", config)
    adder(tmp_path / "m" / "1" / "model.onnx")
    with pytest.raises(ConfigError, match=reason):
        await completed(tmp_path, auto_complete_config=False)


@pytest.mark.parametrize(("name", "rows"), [("small", 2), ("absent", 8), ("", 8)])
async def test_a_named_configuration_replaces_the_usual_one_where_it_exists(
    tmp_path: Path, name: str, rows: int
) -> None:
    folder = write_model(tmp_path, "m", IDENTITY)
    (folder / "configs").mkdir()
    (folder / "configs" / "small.pbtxt").write_text(IDENTITY.replace("max_batch_size: 8", "max_batch_size: 2"))

    assert (await completed(tmp_path, model_config_name=name)).max_batch_size == rows


async def test_a_fault_of_a_named_configuration_names_its_file(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", IDENTITY)
    (folder / "configs").mkdir()
    (folder / "configs" / "bad.pbtxt").write_text("max_batch_size: many")
    with pytest.raises(ConfigError, match=r"configs/bad\.pbtxt"):
        await completed(tmp_path, model_config_name="bad")


@pytest.mark.parametrize("name", ["../secret", "a/b", "a\0"])
async def test_a_name_with_a_path_in_it_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="model_config_name"):
        await completed(tmp_path, model_config_name=name)


SCALAR = """
backend: "identity" max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }, { name: "P" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }, { name: "Q" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } } ]
dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 60000000 }
"""  # noqa: E501


async def test_reshapes_go_both_ways_in_a_batch_scalars_too(tmp_path: Path) -> None:
    write_model(tmp_path, "m", SCALAR)
    async with fleet(tmp_path) as f:
        await f.worker()
        caller = await f.caller()
        requests = []
        for number in range(2):
            rows = number + 1
            x = np.full((rows, 1), number, np.float32)
            p = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
            tensors = (from_array("X", x), from_array("P", p))
            requests.append(InferRequest(f"r{number}", "m", "1", tensors, reply_to=CHANNEL))
        answers = await caller.ask(*requests)

    assert [answer.timing.batch_requests for answer in answers] == [2, 2]
    for asked, answer in zip(requests, answers, strict=True):
        assert [(t.shape, bytes(t.data)) for t in answer.outputs] == [(t.shape, bytes(t.data)) for t in asked.inputs]


OPTIONAL = """
backend: "python" max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "O" data_type: TYPE_FP32 dims: [ 1 ] optional: true } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 100000 }
"""


async def test_other_sets_of_optional_inputs_share_no_batch(tmp_path: Path) -> None:
    """L0_optional_input: identical sets make one batch of two, mixed sets four of one."""
    code = "class Model:\n    def predict(self, X, O=0):\n        return {'Y': X + O}\n"
    write_model(tmp_path, "m", OPTIONAL, {"model.py": code})
    async with fleet(tmp_path) as f:
        await f.worker()
        caller = await f.caller()

        def asked(number: int, *, given: bool) -> InferRequest:
            request = dataclasses.replace(caller.request(number), id=f"r{number}")
            more = (from_array("O", np.float32([[10]])),) if given else ()
            return dataclasses.replace(request, inputs=(*request.inputs, *more))

        same = await caller.ask(asked(1, given=True), asked(2, given=True))
        mixed = await caller.ask(*[asked(number, given=number % 2 == 0) for number in range(3, 7)])

    assert [answer.timing.batch_requests for answer in same] == [2, 2]
    assert values(same) == [[11], [12]]
    assert [answer.timing.batch_requests for answer in mixed] == [1] * 4
    assert values(mixed) == [[3], [14], [5], [16]]
