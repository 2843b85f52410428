from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError, quoted
from protocol.model_config import (
    DynamicBatching,
    InstanceGroup,
    Kind,
    ModelConfig,
    QueuePolicy,
    TensorSpec,
    VersionPolicy,
    Warmup,
    WarmupInput,
)
from protocol.model_config.checks import dims_agree
from protocol.model_config.document import Document
from protocol.model_config.fields import FIELDS, Support, check_supported, settings
from tests.config_strategies import configs

X = TensorSpec("X", "FP32", (-1, 3))
Y = TensorSpec("Y", "BYTES", (1,))
COMPLETE = ModelConfig(
    name="m", backend="python", max_batch_size=4, inputs=(X,), outputs=(Y,), instance_groups=(InstanceGroup("m_0"),)
)

KEYS = st.sampled_from(sorted({part for path in FIELDS for part in path.split(".")})) | st.text(max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["TYPE_FP32", "1", "-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


class TestShapes:
    def test_metadata_shows_the_batch_dimension_only_where_there_is_one(self) -> None:
        assert COMPLETE.shape_of(X) == (-1, -1, 3)
        assert dataclasses.replace(COMPLETE, max_batch_size=0).shape_of(X) == (-1, 3)

    def test_the_model_sees_the_reshape(self) -> None:
        assert TensorSpec("S", "FP32", (1,), reshape=()).model_dims == ()
        assert X.model_dims == (-1, 3)

    def test_tensors_are_found_by_name(self) -> None:
        assert COMPLETE.input("X") == X
        assert COMPLETE.output("Y") == Y
        assert COMPLETE.input("Y") is None

    @pytest.mark.parametrize(
        ("dims", "expected", "agree"),
        [
            ((2, 3), (2, 3), True),
            ((2, 3), (-1, 3), True),
            ((-1, 3), (2, 3), True),
            ((2,), (2, 3), False),
            ((4, 3), (2, 3), False),
        ],
    )
    def test_dims_fit(self, dims: tuple[int, ...], expected: tuple[int, ...], agree: bool) -> None:
        assert dims_agree(dims, expected) is agree


class TestVersionPolicy:
    @pytest.mark.parametrize(
        ("policy", "served"),
        [
            (VersionPolicy(), (7,)),
            (VersionPolicy(2), (3, 7)),
            (VersionPolicy(9), (1, 3, 7)),
            (VersionPolicy(None), (1, 3, 7)),
            (VersionPolicy(None, (7, 1, 5)), (1, 7)),
            (VersionPolicy(None, (5,)), ()),
        ],
        ids=str,
    )
    def test_selects(self, policy: VersionPolicy, served: tuple[int, ...]) -> None:
        assert policy.select({7, 1, 3}) == served

    def test_latest_zero_is_one(self) -> None:
        config = ModelConfig.from_json({"version_policy": {"latest": {"num_versions": 0}}})

        assert config.version_policy == VersionPolicy(1)

    def test_a_json_document_chooses_one(self) -> None:
        with pytest.raises(
            ConfigError, match="'version_policy' must be one of latest, all and specific, not latest and all"
        ):
            ModelConfig.from_json({"version_policy": {"latest": {}, "all": {}}})

    def test_an_empty_choice_is_the_latest(self) -> None:
        assert ModelConfig.from_json({"version_policy": {}}).version_policy == VersionPolicy()


class TestComplete:
    def test_a_complete_configuration_passes(self) -> None:
        COMPLETE.require_complete()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": ""}, "model configuration must specify 'name'"),
            ({"backend": ""}, "must specify 'platform' or 'backend' for 'm'"),
            ({"backend": "pytorch", "inputs": ()}, "must specify at least one 'input' for m"),
            ({"backend": "onnxruntime", "outputs": ()}, "must specify at least one 'output' for m"),
            ({"max_batch_size": 0, "batch_size_stated": False}, "must specify 'max_batch_size' for m"),
            ({"instance_groups": ()}, "must specify one or more 'instance group's for m"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_what_is_missing_is_named(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(COMPLETE, **change).require_complete()

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "must specify input 'X'"),
            (
                {"X": WarmupInput("FP32", (2, 3)), "Z": WarmupInput("FP32", (1,))},
                "unexpected input 'Z', allowed inputs are: X",
            ),
            ({"X": WarmupInput("INT8", (2, 3))}, "has datatype INT8 for input 'X', which is FP32"),
            ({"X": WarmupInput("FP32", (2, 4))}, r"has dims \[2, 4\] for input 'X', which expects \[-1, 3\]"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_warm_up_requests_must_be_ones_that_callers_could_send(
        self, inputs: dict[str, WarmupInput], message: str
    ) -> None:
        config = dataclasses.replace(COMPLETE, warmups=(Warmup("w", 1, 1, inputs),))

        with pytest.raises(ConfigError, match=message):
            config.require_complete()

    def test_a_python_model_may_have_no_inputs_or_no_outputs(self) -> None:
        dataclasses.replace(COMPLETE, backend="python", inputs=(), outputs=()).require_complete()

    def test_an_optional_input_may_be_left_out_of_a_warm_up(self) -> None:
        optional = TensorSpec("O", "INT8", (1,), optional=True)
        warmup = Warmup("w", 1, 1, {"X": WarmupInput("FP32", (2, 3))})

        dataclasses.replace(COMPLETE, inputs=(X, optional), warmups=(warmup,)).require_complete()


class TestQueuePolicies:
    def test_a_level_without_its_own_has_the_default(self) -> None:
        default, own = QueuePolicy(max_queue_size=8), QueuePolicy(max_queue_size=2)
        batching = DynamicBatching(
            priority_levels=2, default_priority_level=1, default_queue_policy=default, priority_queue_policies={2: own}
        )

        assert (batching.queue_policy(1), batching.queue_policy(2)) == (default, own)

    def test_seconds_inside_microseconds_outside(self) -> None:
        config = ModelConfig.from_json({"dynamic_batching": {"max_queue_delay_microseconds": "1500"}})

        assert config.dynamic_batching is not None
        assert config.dynamic_batching.max_queue_delay == 0.0015
        assert config.to_json()["dynamic_batching"]["max_queue_delay_microseconds"] == 1500


class TestJson:
    @given(configs())
    def test_survives_a_json_document(self, config: ModelConfig) -> None:
        assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config

    def test_enum_names_are_read_in_any_case(self) -> None:
        tensor = {"name": "X", "data_type": "type_fp32", "dims": [1]}

        config = ModelConfig.from_json({"instance_group": [{"kind": "kind_cpu"}], "input": [tensor]})

        assert config.instance_groups[0].kind is Kind.CPU
        assert config.inputs[0].datatype == "FP32"

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ([], r"the model configuration must be an object, not \[\]"),
            (None, "the model configuration must be an object, not null"),
            ({"nam": "m"}, "unknown field 'nam' in the model configuration"),
            ({"input": [{"nam": "m"}]}, r"unknown field 'input\[0\].nam' in the model configuration"),
            ({"name": 3}, "'name' must be a string, not 3"),
            ({"name": "a\0b"}, "'name' must be text without NUL"),
            ({"name": "\ud800"}, "'name' must be text without NUL characters and lone surrogates"),
            ({"max_batch_size": "8x"}, "'max_batch_size' must be an integer, not '8x'"),
            ({"max_batch_size": True}, "'max_batch_size' must be an integer, not true"),
            ({"max_batch_size": 8.0}, "'max_batch_size' must be an integer, not 8.0"),
            ({"max_batch_size": 2**31}, "'max_batch_size' is 2147483648; it must be between -2147483647 and 2147483647"),
            ({"input": {"name": "X"}}, "'input' must be a list"),
            ({"input": [7]}, r"'input\[0\]' must be an object, not 7"),
            ({"input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [1, "a"]}]}, r"'input\[0\].dims\[1\]' must be an integer"),
            ({"input": [{"name": "X", "data_type": 11}]}, r"'input\[0\].data_type' must be one of .*, not 11"),
            ({"input": [{"name": "X", "optional": "yes"}]}, r"'input\[0\].optional' must be true or false, not 'yes'"),
            ({"parameters": {"a": "b"}}, r"'parameters\['a'\]' must be an object, not 'b'"),
            ({"metric_tags": {"a": 1}}, r"'metric_tags\['a'\]' must be a string, not 1"),
            ({"metric_tags": {1: "a"}}, r"'metric_tags key' must be a string, not 1"),
            ({"dynamic_batching": {"priority_queue_policy": {"high": {}}}}, "a priority level must be a positive integer"),
            ({"sequence_batching": {}}, "'sequence_batching' is not supported"),
            ({"model_operations": {"op_library_filename": ["a.so"]}}, "'model_operations.op_library_filename' is not supported"),
        ],
        ids=lambda value: ascii(value)[:40],
    )  # fmt: skip
    def test_a_wrong_document_is_refused_with_its_path(self, document: object, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            ModelConfig.from_json(document)

    @given(st.dictionaries(KEYS, VALUES, max_size=6) | VALUES)
    def test_whatever_the_document_is_it_raises_nothing_else(self, document: object) -> None:
        with contextlib.suppress(ConfigError):
            ModelConfig.from_json(document)

    def test_a_long_or_deep_value_is_shown_short(self) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]

        assert len(quoted(deep)) < 100
        assert len(quoted("a" * 10**6)) < 210
        assert quoted(10**5000) == "a number of more than 128 bits"

    def test_a_field_of_null_is_absent(self) -> None:
        assert "input" not in Document({"input": None})
        assert Document({"input": None}).document("input") is None


class TestFields:
    def test_every_field_that_is_not_supported_has_its_reason(self) -> None:
        assert {path for path, field in FIELDS.items() if not field.why} == {
            path for path, field in FIELDS.items() if field.support is Support.SUPPORTED
        }

    def test_every_field_says_in_plain_words_what_happens_with_it(self) -> None:
        assert not [path for path, field in FIELDS.items() if not (field.does or field.why)]
        assert not [path for path, field in FIELDS.items() if (field.does + field.why).endswith(".")]

    def test_a_completed_configuration_of_a_simple_model_sets_only_what_is_supported(self) -> None:
        """Otherwise `penstock check` would report differences that no file states."""
        assert {setting.field.support for setting in settings(COMPLETE.to_json())} == {Support.SUPPORTED}

    def test_settings_name_where_they_are(self) -> None:
        paths = [
            setting.path
            for setting in settings({"parameters": {"a.b": {"string_value": "c"}}, "input": [{}, {"dims": [1]}]})
        ]

        assert paths == ["parameters['a.b'].string_value", "input[1].dims"]

    def test_a_refused_field_may_be_stated_with_its_default(self) -> None:
        check_supported(
            {"batch_input": [], "cc_model_filenames": {}, "runtime": "", "response_cache": {"enable": False}}
        )
