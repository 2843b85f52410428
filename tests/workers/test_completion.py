from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.model_config import DynamicBatching, InstanceGroup, Kind, ModelConfig, TensorSpec
from tests.config_strategies import configs
from workers.repository.completion import BackendMetadata, complete, infer_backend

UNSTATED = ModelConfig(name="m", backend="onnxruntime", batch_size_stated=False)
IMAGE = TensorSpec("IMAGE", "FP32", (3, -1))
LABEL = TensorSpec("LABEL", "INT64", (1,))
BATCHING = BackendMetadata((IMAGE,), (LABEL,), batchable=True)
PLAIN = BackendMetadata((IMAGE,), (LABEL,), batchable=False)


def stated(**changes: Any) -> ModelConfig:
    return dataclasses.replace(UNSTATED, **changes)


class TestInferBackend:
    @pytest.mark.parametrize(
        ("file", "backend", "platform"),
        [
            ("model.onnx", "onnxruntime", "onnxruntime_onnx"),
            ("model.pt", "pytorch", "pytorch_libtorch"),
            ("model.pt2", "pytorch", "pytorch_libtorch"),
            ("model.py", "python", ""),
            ("model.plan", "tensorrt", "tensorrt_plan"),
        ],
    )
    def test_from_the_file(self, file: str, backend: str, platform: str) -> None:
        config = infer_backend(stated(backend=""), ["README.md", file])

        assert (config.backend, config.platform, config.default_model_filename) == (backend, platform, file)

    def test_the_first_of_several_files_counts(self) -> None:
        """A model.onnx beside a model.py is the model, as in Triton."""
        assert infer_backend(stated(backend=""), ["model.py", "model.onnx"]).backend == "onnxruntime"

    @pytest.mark.parametrize(
        ("platform", "backend"),
        [
            ("onnxruntime_onnx", "onnxruntime"),
            ("pytorch_libtorch", "pytorch"),
            ("libtorch", "pytorch"),
            ("tensorrt_plan", "tensorrt"),
        ],
    )
    def test_from_the_platform(self, platform: str, backend: str) -> None:
        config = infer_backend(stated(backend="", platform=platform), [])

        assert (config.backend, config.platform) == (backend, platform)

    def test_from_a_file_name_of_ones_own(self) -> None:
        config = infer_backend(stated(backend="", default_model_filename="net.v2.onnx"), ["net.v2.onnx", "model.py"])

        assert (config.backend, config.default_model_filename) == ("onnxruntime", "net.v2.onnx")

    def test_from_the_models_name(self) -> None:
        assert infer_backend(stated(name="echo.identity", backend=""), []).backend == "identity"

    def test_a_stated_backend_wins_over_the_files(self) -> None:
        config = infer_backend(stated(backend="identity"), ["model.onnx"])

        assert (config.backend, config.platform, config.default_model_filename) == ("identity", "", "")

    def test_a_missing_file_has_the_backends_usual_name(self) -> None:
        assert infer_backend(stated(backend="pytorch"), []).default_model_filename == "model.pt"

    def test_an_unknown_backend_may_have_any_platform(self) -> None:
        assert infer_backend(stated(backend="mine", platform="special"), []).platform == "special"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"backend": ""}, "Could not determine backend for model 'm' with no backend .* none of model.plan, model.onnx"),
            ({"backend": "", "name": "net-1.2"}, "Could not determine backend for model 'net-1.2'"),
            ({"backend": "", "platform": "tensorflow_graphdef"}, "unexpected platform type 'tensorflow_graphdef' for m"),
            ({"platform": "libtorch"}, "unexpected 'platform' and 'backend' pair, got:libtorch, onnxruntime for m"),
            ({"backend": "mine", "platform": "libtorch"}, "unexpected 'platform' and 'backend' pair"),
            ({"backend": "pytorch", "platform": "torch_aoti"}, "unexpected 'platform' and 'backend' pair"),
            ({"parameters": {"EXECUTION_ENV_PATH": "env.tar.gz"}}, "parameter 'EXECUTION_ENV_PATH' .* not supported"),
        ],
        ids=str,
    )  # fmt: skip
    def test_refuses(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            infer_backend(stated(**changes), [])


class TestMaxBatchSize:
    def test_the_default_is_for_a_model_that_can_batch(self) -> None:
        assert complete(UNSTATED, BATCHING).max_batch_size == 32
        assert complete(UNSTATED, BATCHING, 4).max_batch_size == 4
        assert complete(UNSTATED, PLAIN).max_batch_size == 0

    def test_the_models_own_wish_comes_before_the_default(self) -> None:
        assert complete(UNSTATED, dataclasses.replace(BATCHING, max_batch_size=6)).max_batch_size == 6

    @pytest.mark.parametrize("rows", [0, 1, 5])
    def test_what_is_stated_stays(self, rows: int) -> None:
        assert complete(stated(max_batch_size=rows, batch_size_stated=True), BATCHING).max_batch_size == rows

    def test_tensors_stated_with_their_batch_dimension_leave_none_to_batch(self) -> None:
        config = stated(
            inputs=(TensorSpec("IMAGE", "FP32", (-1, 3, -1)),), outputs=(TensorSpec("LABEL", "INT64", (-1, 1)),)
        )

        completed = complete(config, BATCHING)

        assert (completed.max_batch_size, completed.inputs) == (0, config.inputs)

    def test_a_model_without_metadata_does_not_batch_unasked(self) -> None:
        assert complete(stated(inputs=(IMAGE,), outputs=(LABEL,)), None).max_batch_size == 0

    def test_a_model_that_cannot_batch_is_not_made_to(self) -> None:
        with pytest.raises(
            ConfigError, match="autofill failed for model 'm': model does not support batching while non-zero"
        ):
            complete(stated(max_batch_size=4, batch_size_stated=True), PLAIN)


class TestTensors:
    def test_come_from_the_model(self) -> None:
        completed = complete(UNSTATED, BATCHING)

        assert (completed.inputs, completed.outputs) == ((IMAGE,), (LABEL,))

    def test_have_the_batch_dimension_where_batching_is_off(self) -> None:
        completed = complete(stated(max_batch_size=0, batch_size_stated=True), BATCHING)

        assert [spec.dims for spec in (*completed.inputs, *completed.outputs)] == [(-1, 3, -1), (-1, 1)]

    def test_a_scalar_per_row_is_one_element(self) -> None:
        scalar = TensorSpec("LABEL", "INT64", ())

        completed = complete(UNSTATED, BackendMetadata((IMAGE,), (scalar,), batchable=True))

        assert completed.outputs == (TensorSpec("LABEL", "INT64", (1,), reshape=()),)

    def test_a_scalar_without_rows_is_one_element_too(self) -> None:
        scalar = TensorSpec("S", "FP32", ())

        completed = complete(UNSTATED, BackendMetadata((IMAGE, scalar), (scalar,), batchable=False))

        assert completed.inputs == (IMAGE, TensorSpec("S", "FP32", (1,), reshape=()))
        assert completed.outputs == (TensorSpec("S", "FP32", (1,), reshape=()),)
        assert ModelConfig.from_json(completed.to_json()) == completed

    @pytest.mark.parametrize("dims", [(1,), (1, 1)])
    def test_a_scalar_stated_as_one_element_is_reshaped_as_in_triton(self, dims: tuple[int, ...]) -> None:
        stated_inputs = (IMAGE, TensorSpec("S", "FP32", dims))
        metadata = BackendMetadata((IMAGE, TensorSpec("S", "FP32", ())), (LABEL,), batchable=False)

        completed = complete(stated(inputs=stated_inputs), metadata)

        assert completed.inputs == (IMAGE, TensorSpec("S", "FP32", dims, reshape=()))

    def test_a_scalar_stated_with_more_elements_is_refused(self) -> None:
        metadata = BackendMetadata((TensorSpec("S", "FP32", ()),), (LABEL,), batchable=False)

        with pytest.raises(ConfigError, match=r"input 'S': the model expects 0 dimensions"):
            complete(stated(inputs=(TensorSpec("S", "FP32", (2,)),)), metadata)

    @pytest.mark.parametrize("kind", ["input", "output"])
    def test_a_tensor_of_unknown_rank_must_be_stated(self, kind: str) -> None:
        unknown = TensorSpec("S", "FP32", ())
        metadata = BackendMetadata.of(
            *((unknown,) if side == kind else (IMAGE,) for side in ("input", "output")), ["S"]
        )

        with pytest.raises(
            ConfigError, match=f"does not state how many dimensions its {kind} 'S' has: state its {kind}s"
        ):
            complete(UNSTATED, metadata)
        spec = TensorSpec("S", "FP32", (-1, 7))
        given: dict[str, Any] = {f"{kind}s": (spec,)}
        assert getattr(complete(stated(**given), metadata), f"{kind}s") == (spec,)

    def test_some_outputs_may_be_left_out_and_sizes_narrowed(self) -> None:
        metadata = dataclasses.replace(BATCHING, outputs=(LABEL, TensorSpec("SCORES", "FP32", (-1,))))
        outputs = (TensorSpec("SCORES", "FP32", (10,)),)

        assert complete(stated(outputs=outputs), metadata).outputs == outputs

    def test_the_model_is_compared_with_the_reshape(self) -> None:
        inputs = (TensorSpec("IMAGE", "FP32", (1, 3, -1), reshape=(3, -1)),)

        assert complete(stated(inputs=inputs), BATCHING).inputs == inputs

    @pytest.mark.parametrize(
        ("kind", "spec", "message"),
        [
            ("inputs", TensorSpec("PICTURE", "FP32", (3, -1)), "unexpected inference input 'PICTURE' .* allowed inputs are: IMAGE"),
            ("outputs", TensorSpec("CLASS", "INT64", (1,)), "unexpected inference output 'CLASS' .* allowed outputs are: LABEL"),
            ("inputs", TensorSpec("IMAGE", "FP16", (3, -1)), "datatype FP16 for input 'IMAGE', model provides FP32"),
            ("inputs", TensorSpec("IMAGE", "FP32", (4, -1)), r"expects shape \[-1, 3, -1\] but .* specifies shape \[-1, 4, -1\]"),
            ("inputs", TensorSpec("IMAGE", "FP32", (-1, -1)), r"the model expects shape \[-1, 3, -1\]"),
            ("inputs", TensorSpec("IMAGE", "FP32", (3,)), r"expects 3 dimensions .* 2 dimensions \(an initial batch dimension"),
        ],
        ids=lambda value: str(value)[:40],
    )  # fmt: skip
    def test_what_the_model_does_not_have_is_refused(self, kind: str, spec: TensorSpec, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            complete(stated(**{kind: (spec,)}), BATCHING)

    def test_every_input_must_be_stated_but_optional_ones(self) -> None:
        extra = TensorSpec("MASK", "BOOL", (1,))
        metadata = dataclasses.replace(BATCHING, inputs=(IMAGE, extra))

        with pytest.raises(ConfigError, match="configuration expects 1 inputs, model provides 2: 'MASK' is not in"):
            complete(stated(inputs=(IMAGE,)), metadata)

        optional = dataclasses.replace(metadata, inputs=(IMAGE, dataclasses.replace(extra, optional=True)))
        assert complete(stated(inputs=(IMAGE,)), optional).inputs == (IMAGE,)

    def test_unknown_datatypes_and_output_shapes_are_taken_as_stated(self) -> None:
        sides = (TensorSpec("IMAGE", "", (3, -1)),), (TensorSpec("LABEL", "", ()),)
        metadata = BackendMetadata(*sides, batchable=False, unshaped=frozenset({"LABEL"}))

        assert complete(stated(inputs=(IMAGE,), outputs=(LABEL,)), metadata).outputs == (LABEL,)

    def test_without_metadata_all_must_be_stated(self) -> None:
        with pytest.raises(ConfigError, match="must specify at least one 'output' for m"):
            complete(stated(inputs=(IMAGE,)), None)


class TestScheduling:
    def test_dynamic_batching_is_on_where_batches_are_possible(self) -> None:
        assert complete(UNSTATED, BATCHING).dynamic_batching == DynamicBatching(preferred_batch_sizes=(32,))
        assert complete(stated(max_batch_size=1, batch_size_stated=True), BATCHING).dynamic_batching is None
        assert complete(UNSTATED, PLAIN).dynamic_batching is None

    def test_stated_sizes_stay(self) -> None:
        config = stated(max_batch_size=8, batch_size_stated=True, dynamic_batching=DynamicBatching((4,), 0.001))

        assert complete(config, BATCHING).dynamic_batching == DynamicBatching((4,), 0.001)

    def test_sizes_that_the_default_does_not_hold_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="dynamic batching preferred size must be <= max batch size for m"):
            complete(stated(dynamic_batching=DynamicBatching((64,))), BATCHING)

    def test_groups_get_their_names(self) -> None:
        groups = (InstanceGroup(), InstanceGroup("fast", Kind.GPU), InstanceGroup(kind=Kind.CPU))

        assert complete(UNSTATED, BATCHING).instance_groups == (InstanceGroup("m_0"),)
        assert [group.name for group in complete(stated(instance_groups=groups), BATCHING).instance_groups] == [
            "m_0", "fast", "m_2",
        ]  # fmt: skip


class TestFullShapes:
    def test_free_first_dimensions_are_the_batch(self) -> None:
        full = [TensorSpec("X", "FP32", (-1, 3)), TensorSpec("Y", "FP32", (-1,))]

        assert BackendMetadata.of(full[:1], full[1:]) == BackendMetadata(
            (TensorSpec("X", "FP32", (3,)),), (TensorSpec("Y", "FP32", ()),), batchable=True
        )

    @pytest.mark.parametrize("dims", [(), (8, 3)])
    def test_one_tensor_without_a_free_one_keeps_all_as_they_are(self, dims: tuple[int, ...]) -> None:
        full = [TensorSpec("X", "FP32", (-1, 3)), TensorSpec("Y", "FP32", dims)]

        assert BackendMetadata.of(full[:1], full[1:]) == BackendMetadata((full[0],), (full[1],), batchable=False)


@given(configs(), st.booleans())
def test_completing_twice_changes_nothing(config: ModelConfig, batchable: bool) -> None:
    """The catalogue may hand a completed configuration to a worker that completes it again."""
    metadata = BackendMetadata((IMAGE,), (LABEL,), batchable)
    config = dataclasses.replace(config, inputs=(), outputs=(), warmups=())
    try:
        completed = complete(config, metadata)
    except ConfigError:
        return

    assert complete(completed, metadata) == completed
    assert ModelConfig.from_json(completed.to_json()) == completed
