from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.errors import ConfigError, ModelFailed
from protocol.model_config import TensorSpec, Warmup, WarmupInput
from tests.workers.archives import archive
from workers.checking.compatibility import CheckResult, Inspect, LoadAttempt, Status, check_repositories
from workers.instances.warmup import samples
from workers.repository.completion import BackendMetadata
from workers.repository.version import ModelVersion

BYTES = {
    "model.pt": archive("m/constants.pkl"),
    "model.pt2": archive("m/models/model.json"),
    "model.py": b"class Model: ...",
}
"""Beginnings of model files."""
BACKENDS = {"onnxruntime", "pytorch", "python", "identity"}
WARMUP = """
max_batch_size: 1
model_warmup { name: "w" batch_size: 1 inputs { key: "%s" value { data_type: TYPE_FP32 dims: 4 %s } } }
"""
TENSORS = """
input { name: "X" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] }
"""
OPEN = TENSORS.replace("dims: [ 4 ] }", "dims: [ 4, -1 ] }", 1)
VERIFIED = ("configuration",)


def verdict(
    tmp_path: Path,
    config: str,
    file: str = "model.onnx",
    inspect: Inspect | None = None,
    attempt: LoadAttempt | None = None,
) -> CheckResult:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    (version / file).write_bytes(BYTES.get(file, b"\x08\x09"))
    (found,) = check_repositories([tmp_path], BACKENDS, inspect, attempt)
    return found


def four_floats(version: ModelVersion) -> BackendMetadata:
    specs = [TensorSpec(name, "FP32", (4,)) for name in "XY"]
    return BackendMetadata((specs[0],), (specs[1],), batchable=True)


class TestNoDifference:
    @pytest.mark.parametrize(
        "config",
        [
            "max_batch_size: 8 dynamic_batching { }" + TENSORS,
            "max_batch_size: 0" + TENSORS,
            "max_batch_size: 8",
            "max_batch_size: 8 instance_group { kind: KIND_CPU count: 2 }",
        ],
    )
    def test_nothing_to_report(self, tmp_path: Path, config: str) -> None:
        assert verdict(tmp_path, config) == CheckResult("m", Status.NO_DIFFERENCE, (1,), verified=VERIFIED)

    def test_the_model_file_agrees(self, tmp_path: Path) -> None:
        found = verdict(tmp_path, "max_batch_size: 8" + TENSORS, inspect=four_floats)

        assert (found.status, found.verified) == (Status.NO_DIFFERENCE, ("configuration", "model file"))

    def test_a_model_file_that_says_nothing_is_not_counted_as_looked_at(self, tmp_path: Path) -> None:
        found = verdict(tmp_path, "max_batch_size: 8" + TENSORS, inspect=lambda version: None)

        assert found.verified == ("configuration",)


def test_a_model_that_calls_other_models_is_said_to_fail_there(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: 0" + TENSORS)
    (folder / "model.py").write_text("import triton_python_backend_utils as pb\npb.InferenceRequest('m').exec()\n")

    (found,) = check_repositories([tmp_path], BACKENDS)

    assert found.status is Status.DIFFERS
    assert found.reasons == (
        "model.py uses pb.InferenceRequest (calls of other models), which is not supported: it fails at that call",
    )


class TestTrying:
    """The result of loading a model and sending it a request."""

    def test_the_model_gets_one_row_of_zeros_of_what_it_requires(self, tmp_path: Path) -> None:
        tried: list[ModelVersion] = []
        optional = 'input { name: "O" data_type: TYPE_FP32 dims: [ 1 ] optional: true }'

        found = verdict(tmp_path, "max_batch_size: 8" + OPEN + optional, attempt=tried.append)

        (version,) = tried
        assert found.verified == ("configuration", "a request of zeros")
        assert version.config.warmups == (Warmup("a request of zeros", 1, 1, {"X": WarmupInput("FP32", (4, 1))}),)
        assert [request.inputs[0].shape for _, (request,) in samples(version.config, "1", tmp_path)] == [(1, 4, 1)]

    def test_a_model_whose_inputs_are_all_optional_gets_all(self, tmp_path: Path) -> None:
        tried: list[ModelVersion] = []

        verdict(
            tmp_path,
            "max_batch_size: 8" + TENSORS.replace("[ 4 ] }", "[ 4 ] optional: true }", 1),
            attempt=tried.append,
        )

        assert set(tried[0].config.warmups[0].inputs) == {"X"}

    def test_one_that_fails_is_not_said_to_be_served_well(self, tmp_path: Path) -> None:
        def attempt(version: ModelVersion) -> None:
            raise ModelFailed("no weights")

        found = verdict(tmp_path, "max_batch_size: 8 optimization { graph { level: 1 } }" + TENSORS, attempt=attempt)

        assert (found.status, found.versions, found.reasons) == (Status.FAILS, (1,), ("version 1: no weights",))
        assert found.verified == ("configuration",)

    def test_one_that_is_refused_is_not_tried(self, tmp_path: Path) -> None:
        def attempt(version: ModelVersion) -> None:
            raise AssertionError(version)

        assert verdict(tmp_path, 'backend: "openvino"', "model.xml", attempt=attempt).status is Status.REFUSED


def test_each_verdict_comes_before_the_next_model_is_looked_at(tmp_path: Path) -> None:
    looked_at: list[str] = []

    def inspect(version: ModelVersion) -> BackendMetadata | None:
        looked_at.append(version.model)
        return four_floats(version)

    for name in "ab":
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(b"\x08\x09")
    verdicts = check_repositories([tmp_path], BACKENDS, inspect)

    assert (next(verdicts).model, looked_at) == ("a", ["a"])
    assert (next(verdicts).model, looked_at) == ("b", ["a", "b"])


class TestDiffers:
    @pytest.mark.parametrize(
        ("config", "file", "difference"),
        [
            ("max_batch_size: 8 optimization { graph { level: 1 } }", "model.onnx", "'optimization.graph.level' has no effect: "),
            (
                "max_batch_size: 8 optimization { input_pinned_memory { enable: false } }",
                "model.onnx",
                "'optimization.input_pinned_memory.enable' has no effect: ",
            ),
            ("", "model.onnx", "max_batch_size is not stated and becomes 32 (where the model can batch); Triton's backends take 4"),
            ("max_batch_size: 8" + TENSORS, "model.py", "dynamic batching is on, since max_batch_size is 8; "),
            ("max_batch_size: 0" + TENSORS, "model.pt2", "the file is served as a torch.export program or an AOTInductor package"),
            (
                "max_batch_size: 8 dynamic_batching { default_queue_policy { allow_timeout_override: true } }",
                "model.onnx",
                "a request's own timeout counts where the policy allows it without a default timeout",
            ),
        ],
        ids=lambda value: value[:30],
    )  # fmt: skip
    def test_each_difference_is_named(self, tmp_path: Path, config: str, file: str, difference: str) -> None:
        found = verdict(tmp_path, config, file)

        assert (found.status, found.versions, len(found.reasons)) == (Status.DIFFERS, (1,), 1)
        assert found.reasons[0].startswith(difference)

    def test_what_the_model_file_says_is_counted_in(self, tmp_path: Path) -> None:
        found = verdict(tmp_path, "", inspect=four_floats)

        assert found.reasons == (
            "max_batch_size is not stated and becomes 32; Triton's backends take 4 or, where they cannot tell, 0",
        )

    def test_a_difference_of_all_versions_is_named_once(self, tmp_path: Path) -> None:
        (tmp_path / "m" / "2").mkdir(parents=True)
        (tmp_path / "m" / "2" / "model.onnx").write_bytes(b"\x08\x09")

        found = verdict(tmp_path, "version_policy { all { } }")

        assert (found.versions, len(found.reasons)) == ((1, 2), 1)


class TestRefused:
    @pytest.mark.parametrize(
        ("config", "file", "reason"),
        [
            ("sequence_batching { }", "model.onnx", "config.pbtxt: 'sequence_batching' is not supported: sequences"),
            ('backend: "openvino"', "model.xml", "version 1: there is no backend 'openvino'; there are: identity, onnxruntime, "),
            ("max_batch_size: 8", "model.plan", "version 1: there is no backend 'tensorrt'"),
            ('backend: "python"', "main.py", "version 1: there is no file '1/model.py'"),
            ("", "weights.bin", "Could not determine backend for model 'm'"),
            (
                WARMUP % ("X", 'input_data_file: "x"') + TENSORS,
                "model.onnx",
                "version 1: there is no file 'warmup/x' for model_warmup 'w'",
            ),
            (
                WARMUP % ("Z", "zero_data: true") + TENSORS,
                "model.onnx",
                "version 1: model_warmup 'w' of model m must specify input 'X'",
            ),
        ],
        ids=lambda value: value[:30],
    )  # fmt: skip
    def test_the_reason_is_given(self, tmp_path: Path, config: str, file: str, reason: str) -> None:
        found = verdict(tmp_path, config, file)

        assert (found.status, found.versions) == (Status.REFUSED, ())
        assert found.reasons[0].startswith(reason)

    def test_a_model_file_that_says_otherwise(self, tmp_path: Path) -> None:
        tensors = TENSORS.replace('"X"', '"Z"')

        found = verdict(tmp_path, "max_batch_size: 8" + tensors, inspect=four_floats)

        assert found.reasons == ("version 1: unexpected inference input 'Z' for model 'm', allowed inputs are: X",)

    def test_a_model_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        def inspect(version: ModelVersion) -> BackendMetadata | None:
            raise ConfigError(f"{version.path.name} is no model")

        assert verdict(tmp_path, "", inspect=inspect).reasons == ("version 1: model.onnx is no model",)

    def test_a_framework_that_is_not_installed(self, tmp_path: Path) -> None:
        def inspect(version: ModelVersion) -> BackendMetadata | None:
            raise ModuleNotFoundError("No module named 'onnxruntime'")

        assert verdict(tmp_path, "", inspect=inspect).reasons == (
            "version 1: backend 'onnxruntime' lacks a package: No module named 'onnxruntime'",
        )

    def test_a_file_that_is_not_there_is_not_inspected(self, tmp_path: Path) -> None:
        def inspect(version: ModelVersion) -> BackendMetadata | None:
            raise AssertionError(version)

        found = verdict(tmp_path, 'backend: "onnxruntime"', "other.onnx", inspect)

        assert found.reasons == ("version 1: there is no file '1/model.onnx'",)

    def test_a_repository_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is not a folder"):
            next(check_repositories([tmp_path / "none"], BACKENDS))


def test_warnings_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "m" / "01").mkdir(parents=True)

    found = verdict(tmp_path, "max_batch_size: 1")

    assert found.status is Status.NO_DIFFERENCE
    assert found.warnings == ("ignore version directory '01' which contains leading zeros in its directory name",)


def test_a_verdict_is_a_json_object(tmp_path: Path) -> None:
    document = verdict(tmp_path, 'backend: "tensorrt"', "model.plan").as_json()
    there = "there are: identity, onnxruntime, python, pytorch"

    assert json.loads(json.dumps(document)) == {
        "model": "m",
        "status": "refused",
        "versions": [],
        "reasons": [
            f"version 1: there is no backend 'tensorrt'; {there}; serve the ONNX file that the engine was built from"
        ],
        "warnings": [],
        "verified": [],
    }


def test_a_file_that_is_no_model_is_named_without_its_framework(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
    )

    (found,) = check_repositories([tmp_path], BACKENDS)

    assert found.status is Status.REFUSED
    assert "1/model.onnx' is not an ONNX model but a Git LFS pointer" in found.reasons[0]
    assert "git lfs pull" in found.reasons[0]


class TestExplain:
    CONFIG = """
max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }
output { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] }
optimization { graph { level: 1 } }
response_cache { enable: true }
instance_group { passive: true }
"""

    def explained(self, tmp_path: Path, config: str) -> CheckResult:
        (tmp_path / "m" / "1").mkdir(parents=True)
        (tmp_path / "m" / "config.pbtxt").write_text(config)
        (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"\x08\x09")
        (found,) = check_repositories([tmp_path], BACKENDS, explain=True)
        return found

    def test_each_field_that_is_set_is_explained_also_in_a_model_that_is_refused(self, tmp_path: Path) -> None:
        found = self.explained(tmp_path, self.CONFIG)
        lines = dict(line.split(": ", 1) for line in found.fields)

        assert found.status is Status.REFUSED
        assert lines["max_batch_size"].startswith("the most rows of a request and of a batch")
        assert lines["input[0].allow_ragged_batch"].startswith("requests of different shapes share a batch")
        assert lines["optimization.graph.level"].startswith("accepted without effect, a hint to the runtime")
        assert lines["instance_group[0].passive"].startswith("refused, every instance that is loaded also runs batches")
        assert lines["response_cache.enable"].startswith("equal requests are answered from the worker's cache")
        assert "fields" in found.as_json()

    def test_a_file_that_is_not_one_explains_nothing(self, tmp_path: Path) -> None:
        assert self.explained(tmp_path, "max_batch_size: {").fields == ()

    def test_without_it_results_are_as_they_were(self, tmp_path: Path) -> None:
        assert "fields" not in verdict(tmp_path, "max_batch_size: 8" + TENSORS).as_json()
