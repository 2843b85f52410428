"""Every field of config.pbtxt and what this version does with it: the table behind loading, `penstock check` and the docs. Pure.

Invariant: no field is silently ignored. It is used, accepted because it changes no answer, or refused.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from protocol.errors import ConfigError, quoted


class Support(enum.StrEnum):
    """What happens to a field that is set."""

    SUPPORTED = "supported"
    WITHOUT_EFFECT = "accepted without effect"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One row of the table.

    Attributes:
        support: what happens when the field is set to a value other than its default.
        why: the reason, unless the field is supported.
        presence: whether an empty message has a meaning, and so counts as set.
        default: the field's default, if that is not protobuf's zero.
    """

    support: Support
    why: str = ""
    presence: bool = False
    default: object = None


_USED: Final = Field(Support.SUPPORTED)


def _harmless(why: str, default: object = None) -> Field:
    return Field(Support.WITHOUT_EFFECT, why, default=default)


def _refused(why: str, *, presence: bool = False) -> Field:
    return Field(Support.REFUSED, why, presence)


_SHAPE_TENSOR: Final = _refused("only TensorRT models have shape tensors, and there is no TensorRT backend yet")
_NON_LINEAR: Final = _refused("only TensorRT models have non-linear formats, and there is no TensorRT backend yet")
_PINNED: Final = _harmless("how inputs and outputs are staged for the device; affects speed only", default=True)

FIELDS: Final[dict[str, Field]] = {
    "name": _USED,
    "platform": _USED,
    "backend": _USED,
    "runtime": _refused("a backend has one runtime here; leave the field out"),
    "version_policy.latest.num_versions": _USED,
    "version_policy.all": _USED,
    "version_policy.specific.versions": _USED,
    "max_batch_size": _USED,
    "input.name": _USED,
    "input.data_type": _USED,
    "input.format": _USED,
    "input.dims": _USED,
    "input.reshape.shape": _USED,
    "input.is_shape_tensor": _SHAPE_TENSOR,
    "input.allow_ragged_batch": _refused("a batch holds requests of one shape; requests of other shapes go in another batch"),
    "input.optional": _USED,
    "input.is_non_linear_format_io": _NON_LINEAR,
    "output.name": _USED,
    "output.data_type": _USED,
    "output.dims": _USED,
    "output.reshape.shape": _USED,
    "output.label_filename": _USED,
    "output.is_shape_tensor": _SHAPE_TENSOR,
    "output.is_non_linear_format_io": _NON_LINEAR,
    "batch_input": _refused("tensors derived from ragged batches are not created yet"),
    "batch_output": _refused("outputs of ragged batches are not scattered yet"),
    "optimization.graph.level": _harmless("a hint to the runtime's graph optimiser; affects speed only"),
    "optimization.priority": _harmless("a CUDA stream priority of TensorRT; no other backend of Triton reads it either"),
    "optimization.cuda.graphs": _refused("CUDA graphs are captured for TensorRT engines only; there is no such backend yet"),
    "optimization.cuda.busy_wait_events": _refused("it belongs to the TensorRT backend, which is not there yet"),
    "optimization.cuda.graph_spec": _refused("it belongs to the TensorRT backend, which is not there yet"),
    "optimization.cuda.output_copy_stream": _refused("it belongs to the TensorRT backend, which is not there yet"),
    "optimization.execution_accelerators": _refused(
        "accelerators are not chosen by this field; parameters { key: \"execution_providers\" } names ONNX Runtime's providers"
    ),
    "optimization.input_pinned_memory.enable": _PINNED,
    "optimization.output_pinned_memory.enable": _PINNED,
    "optimization.gather_kernel_buffer_threshold": _harmless("when Triton gathers inputs by a CUDA kernel; affects speed only"),
    "optimization.eager_batching": _harmless("the next batch is always prepared while one runs"),
    "dynamic_batching.preferred_batch_size": _USED,
    "dynamic_batching.max_queue_delay_microseconds": _USED,
    "dynamic_batching.preserve_ordering": _USED,
    "dynamic_batching.priority_levels": _USED,
    "dynamic_batching.default_priority_level": _USED,
    "dynamic_batching.default_queue_policy.timeout_action": _USED,
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": _USED,
    "dynamic_batching.default_queue_policy.allow_timeout_override": _USED,
    "dynamic_batching.default_queue_policy.max_queue_size": _USED,
    "dynamic_batching.priority_queue_policy.*.timeout_action": _USED,
    "dynamic_batching.priority_queue_policy.*.default_timeout_microseconds": _USED,
    "dynamic_batching.priority_queue_policy.*.allow_timeout_override": _USED,
    "dynamic_batching.priority_queue_policy.*.max_queue_size": _USED,
    "sequence_batching": _refused("sequences (stateful models) are not supported yet", presence=True),
    "ensemble_scheduling": _refused("ensembles are not supported yet; call the models one after the other", presence=True),
    "instance_group.name": _USED,
    "instance_group.kind": _USED,
    "instance_group.count": _USED,
    "instance_group.gpus": _USED,
    "instance_group.rate_limiter": _refused("instances do not wait for shared resources yet; use a smaller count"),
    "instance_group.secondary_devices": _refused("there is no backend for NVDLA cores"),
    "instance_group.profile": _refused("only TensorRT engines have profiles, and there is no TensorRT backend yet"),
    "instance_group.passive": _refused("every instance is scheduled; leave the group out"),
    "instance_group.host_policy": _refused("instances are not bound to NUMA nodes yet; start the worker under numactl"),
    "default_model_filename": _USED,
    "cc_model_filenames": _refused("one file serves every compute capability; use default_model_filename"),
    "metric_tags.*": _USED,
    "parameters.*.string_value": _USED,
    "model_warmup.name": _USED,
    "model_warmup.batch_size": _USED,
    "model_warmup.count": _USED,
    "model_warmup.inputs.*.data_type": _USED,
    "model_warmup.inputs.*.dims": _USED,
    "model_warmup.inputs.*.zero_data": _USED,
    "model_warmup.inputs.*.random_data": _USED,
    "model_warmup.inputs.*.input_data_file": _USED,
    "model_operations.op_library_filename": _refused("custom operator libraries (native code) are not loaded from a repository"),
    "model_transaction_policy.decoupled": _refused("decoupled models are not supported yet: every request gets one response"),
    "model_repository_agents.agents": _refused("agents are not run before a load, so their checks would be skipped"),
    "response_cache.enable": _refused("there is no response cache yet"),
    "model_metrics.metric_control": _refused("the histograms' buckets are fixed in this version"),
}  # fmt: skip
"""By path; `*` stands for the keys of a map. A message that is refused as a whole has one row."""

_INNER: Final = frozenset(
    ".".join(parts[:end]) for parts in (path.split(".") for path in FIELDS) for end in range(1, len(parts))
)
_DEFAULTS: Final = (False, 0, "", "FORMAT_NONE", "PRIORITY_DEFAULT")


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """A field that a document sets to a value other than its default.

    Attributes:
        path: in the document, such as `input[0].reshape.shape`.
        field: its row of the table.
    """

    path: str
    field: Field


def check_supported(document: Mapping[str, object]) -> None:
    """Refuse fields that this version does not support.

    Raises:
        ConfigError: names the first field that is unknown, or refused and why.
    """
    for setting in settings(document):
        if setting.field.support is Support.REFUSED:
            raise ConfigError(f"'{setting.path}' is not supported: {setting.field.why}")


def settings(document: Mapping[str, object]) -> Iterator[Setting]:
    """The fields that the document sets, in its order.

    Raises:
        ConfigError: names a field that a model configuration does not have.
    """
    for key, value in document.items():
        yield from _settings(value, key, key)


def _settings(value: object, row: str, path: str) -> Iterator[Setting]:
    if row in FIELDS:
        if _is_set(value, FIELDS[row]):
            yield Setting(path, FIELDS[row])
    elif row not in _INNER:
        raise ConfigError(f"unknown field '{path}' in the model configuration")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if f"{row}.*" in FIELDS or f"{row}.*" in _INNER:
                yield from _settings(inner, f"{row}.*", f"{path}[{quoted(key)}]")
            else:
                yield from _settings(inner, f"{row}.{key}", f"{path}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, inner in enumerate(value):
            yield from _settings(inner, row, f"{path}[{index}]")


def _is_set(value: object, field: Field) -> bool:
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return field.presence or len(value) > 0
    return value is not None and (value not in _DEFAULTS if field.default is None else value != field.default)
