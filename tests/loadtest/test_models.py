from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from loadtest import direct, models
from loadtest.encoder import Encoder
from loadtest.payloads import draw
from protocol.model_config import Kind
from protocol.model_config.pbtxt import parse


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write_repository(tmp_path_factory.mktemp("repository"))


def test_the_repository_has_tritons_layout(repository: Path) -> None:
    for model in models.MODELS.values():
        assert (repository / model.name / "1" / model.file).is_file()
        assert f'name: "{model.name}"' in (repository / model.name / "config.pbtxt").read_text()
    assert not list(repository.rglob("*.partial"))


@pytest.mark.parametrize("name", [name for name, model in models.MODELS.items() if not model.twin])
def test_a_batch_gives_what_its_rows_give_alone(repository: Path, name: str) -> None:
    model = models.MODELS[name]
    run = direct.load(repository / name)
    random = np.random.default_rng(7)
    rows = [{spec.name: draw(spec, random) for spec in model.inputs} for _ in range(5)]
    batch = {spec.name: np.concatenate([row[spec.name] for row in rows]) for spec in model.inputs}
    together = run(batch)
    assert list(together) == list(model.outputs)
    for index, row in enumerate(rows):
        for output, values in run(row).items():
            assert values.shape == (1, 16)
            np.testing.assert_allclose(together[output][index], values[0], rtol=1e-3, atol=1e-3)
    assert np.ptp(together[model.outputs[0]], axis=0).max() > 0.05  # rows are distinguishable


def test_models_are_the_same_every_time(repository: Path, tmp_path: Path) -> None:
    again = models.write_repository(tmp_path, ["mlp", "encoder"])
    random = np.random.default_rng(1)
    for name in ("mlp", "encoder"):
        row = {spec.name: draw(spec, random) for spec in models.MODELS[name].inputs}
        first, second = direct.load(repository / name)(row), direct.load(again / name)(row)
        for output, values in first.items():
            np.testing.assert_array_equal(values, second[output])


def test_a_python_model_differs_from_its_twin_only_in_backend_and_file() -> None:
    twins = [model for model in models.COMPARED_MODELS.values() if model.twin]
    assert len(twins) == len(models.COMPARED_MODELS) / 2
    for model in twins:
        other = models.ALL[model.twin]
        assert (other.inputs, other.outputs, other.twin) == (model.inputs, model.outputs, "")
        mine, theirs = (parse(each.config, "config.pbtxt", each.name) for each in (model, other))
        assert (mine.backend, theirs.backend) == ("python", "onnxruntime")
        assert dataclasses.replace(mine, name=theirs.name, backend=theirs.backend) == theirs


def test_the_onnx_encoder_is_the_encoder(tmp_path: Path) -> None:
    models.write_repository(tmp_path, ["encoder", "encoder-onnx"])
    ids = draw(models.ALL["encoder-onnx"].inputs[0], np.random.default_rng(3))
    torch_scores = direct.load(tmp_path / "encoder")({"INPUT__0": ids})["OUTPUT__0"]
    np.testing.assert_allclose(direct.load(tmp_path / "encoder-onnx")({"ids": ids})["scores"], torch_scores, atol=1e-5)


def test_models_for_gpus_differ_from_the_others_in_where_they_run() -> None:
    assert not any(model.on_gpu for model in models.MODELS.values())
    for name, model in models.GPU_MODELS.items():
        config = parse(model.config, "config.pbtxt", name)
        assert (model.name, config.name) == (name, name)
        assert [group.kind for group in config.instance_groups] == [Kind.GPU]
        assert [spec.dims for spec in config.inputs] == [spec.shape[1:] for spec in model.inputs]


def test_a_large_encoder_in_half_precision_answers_in_single(tmp_path: Path) -> None:
    name = "base-gpu"
    (spec,) = models.ALL[name].inputs
    module = Encoder(models.VOCABULARY, 24, 2, heads=12, tokens=spec.shape[1])
    ids = torch.from_numpy(draw(spec, np.random.default_rng(1)))
    with torch.inference_mode():
        traced = torch.jit.trace(module.eval(), ids)
        whole = traced(ids)
        assert whole.dtype == torch.float32
        half = traced.half()(ids)
    assert half.dtype == torch.float32
    assert torch.allclose(half, whole, atol=models.ALL[name].tolerance)
    assert not torch.equal(half, whole)


def test_copies_for_idling_are_models_of_their_own(tmp_path: Path) -> None:
    names = models.write_copies(tmp_path, 3)
    assert names == ["idle-000", "idle-001", "idle-002"]
    assert 'name: "idle-002"' in (tmp_path / "idle-002" / "config.pbtxt").read_text()


def test_the_limit_is_measured_for_every_batch_size(repository: Path) -> None:
    rates = direct.measure(repository / "addsub", models.MODELS["addsub"].inputs, 0.02, (1, 8))
    assert set(rates) == {1, 8}
    assert all(rate > 0 for rate in rates.values())


def test_a_folder_without_a_model_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model\.onnx"):
        direct.load(tmp_path)
