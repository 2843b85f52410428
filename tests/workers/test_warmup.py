from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import ConfigError, ModelFailed
from protocol.messages import ModelState
from protocol.model_config import ModelConfig
from protocol.model_config.pbtxt import parse
from protocol.tensors import Array, pack_bytes
from tests.workers.fleet import fleet, write_model
from tests.workers.test_models import state
from workers.backends.tensor_instance import TensorInstance
from workers.instances.warmup import samples, warm_up

CONFIG = """
backend: "identity" max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "S" data_type: TYPE_STRING dims: [ 1 ] },
        { name: "N" data_type: TYPE_INT64 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
model_warmup [ { name: "first" batch_size: 3 count: 2 inputs [
  { key: "X" value: { data_type: TYPE_FP32 dims: [ 2 ] SOURCE } },
  { key: "S" value: { data_type: TYPE_STRING dims: [ 1 ] random_data: true } },
  { key: "N" value: { data_type: TYPE_INT64 dims: [ 2 ] random_data: true } } ] } ]
"""


def config(source: str) -> ModelConfig:
    return parse(CONFIG.replace("SOURCE", source), "config.pbtxt", "m")


class Noting(TensorInstance):
    """Records its inputs."""

    def __init__(self, config: ModelConfig, error: Exception | None = None) -> None:
        super().__init__(config)
        self.seen: list[dict[str, Array]] = []
        self.error = error

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        self.seen.append(inputs)
        if self.error is not None:
            raise self.error
        return {"Y": inputs["X"]}


def test_each_sample_runs_as_often_and_with_as_many_rows_as_it_says(tmp_path: Path) -> None:
    made = config("zero_data: true")
    instance = Noting(made)
    warm_up(instance, made, samples(made, "1", tmp_path))
    assert len(instance.seen) == 2
    assert instance.seen[0]["X"].tolist() == [[0, 0]] * 3
    assert instance.seen[0]["S"].tolist() == [[b""]] * 3
    assert set(instance.seen[0]["N"].ravel()) <= {0, 1}


def test_random_floats_are_below_one(tmp_path: Path) -> None:
    made = config("random_data: true")
    ((_, requests),) = samples(made, "1", tmp_path)
    array = requests[0].inputs[0].array()
    assert ((array >= 0) & (array < 1)).all()


def test_data_files_are_read_from_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.bin").write_bytes(np.array([5, 6], np.float32).tobytes())
    made = config('input_data_file: "x.bin"')
    instance = Noting(made)
    warm_up(instance, made, samples(made, "1", tmp_path))
    assert instance.seen[0]["X"].tolist() == [[5, 6]] * 3


def test_a_file_that_is_not_there_or_too_short_is_named(tmp_path: Path) -> None:
    made = config('input_data_file: "x.bin"')
    with pytest.raises(ConfigError, match=r"x\.bin' cannot be read"):
        samples(made, "1", tmp_path)
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.bin").write_bytes(b"1234")
    with pytest.raises(ConfigError, match=r"'first' of m: .*Expected 8, got 4"):
        samples(made, "1", tmp_path)


def test_a_file_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "secret").write_bytes(b"12345678")
    (tmp_path / "warmup" / "link").symlink_to(tmp_path / "secret")
    made = config('input_data_file: "link"')
    with pytest.raises(ConfigError, match="lies outside"):
        samples(made, "1", tmp_path)


def test_a_sample_that_fails_fails_the_load_by_name(tmp_path: Path) -> None:
    made = config("zero_data: true")
    with pytest.raises(
        ModelFailed,
        match=r"failed to run warmup sample 'first': Failed to process the request.* for model 'm', message: ValueError: cold",
    ):
        warm_up(Noting(made, ValueError("cold")), made, samples(made, "1", tmp_path))


def test_more_bytes_than_the_dims_need_are_left_out(tmp_path: Path) -> None:
    """As in Triton."""
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.bin").write_bytes(np.array([5, 6, 7], np.float32).tobytes())
    made = config('input_data_file: "x.bin"')
    ((_, requests),) = samples(made, "1", tmp_path)
    assert requests[0].inputs[0].array().tolist() == [[5, 6]]


WARM = """
backend: "python" max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "S" data_type: TYPE_STRING dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
model_warmup [ { name: "w" batch_size: 3 count: 2 inputs [
  { key: "X" value: { data_type: TYPE_FP32 dims: [ 1 ] input_data_file: "x.bin" } },
  { key: "S" value: { data_type: TYPE_STRING dims: [ 2 ] input_data_file: "s.bin" } } ] } ]
"""
COUNTING = """
import pathlib
class Model:
    def predict(self, X, S):
        with (pathlib.Path(__file__).parent / "seen").open("a") as file:
            print(X.ravel().tolist(), S.tolist(), file=file)
        if (X < 0).any():
            raise ValueError("cold")
        return {"Y": X}
"""


@pytest.mark.parametrize(("value", "reason"), [(7.0, ""), (-1.0, "failed to run warmup sample 'w': ")])
async def test_a_version_is_ready_once_its_warm_ups_succeeded(tmp_path: Path, value: float, reason: str) -> None:
    folder = write_model(tmp_path, "m", WARM, {"model.py": COUNTING})
    (folder / "warmup").mkdir()
    (folder / "warmup" / "x.bin").write_bytes(np.float32(value).tobytes())
    (folder / "warmup" / "s.bin").write_bytes(pack_bytes([b"a", b"\xff"]))
    async with fleet(tmp_path) as f:
        await f.worker(exit_on_error=False)
        entry = state(f, "m")
    seen = (folder / "1" / "seen").read_text().splitlines()

    assert (entry.state is ModelState.READY) is not bool(reason)
    assert reason in entry.reason
    assert seen == [f"{[value] * 3} {[[b'a', bytes([255])]] * 3}"] * (1 if reason else 2)
