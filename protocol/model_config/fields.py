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
        does: what a supported field does, in one sentence without a full stop.
    """

    support: Support
    why: str = ""
    presence: bool = False
    default: object = None
    does: str = ""


def _used(does: str) -> Field:
    return Field(Support.SUPPORTED, does=does)


def _harmless(why: str, default: object = None) -> Field:
    return Field(Support.WITHOUT_EFFECT, why, default=default)


def _refused(why: str, *, presence: bool = False) -> Field:
    return Field(Support.REFUSED, why, presence)


_SHAPE_TENSOR: Final = _refused("only TensorRT models have shape tensors, and there is no TensorRT backend yet")
_NON_LINEAR: Final = _refused("only TensorRT models have non-linear formats, and there is no TensorRT backend yet")
_PINNED: Final = _harmless("how inputs and outputs are staged for the device; affects speed only", default=True)

FIELDS: Final[dict[str, Field]] = {
    "name": _used("the model's name; it must be its folder's"),
    "platform": _used("chooses the backend by Triton's older name"),
    "backend": _used("chooses what runs the model"),
    "runtime": _refused("a backend has one runtime here; leave the field out"),
    "version_policy.latest.num_versions": _used("serves so many of the newest versions"),
    "version_policy.all": _used("serves every version"),
    "version_policy.specific.versions": _used("serves these versions, those of them that exist"),
    "max_batch_size": _used("the most rows of a request and of a batch; 0 for tensors without a batch dimension"),
    "input.name": _used("the input's name for callers and the model"),
    "input.data_type": _used("requests with another datatype are refused"),
    "input.format": _used("says what three dims mean; nothing is transposed"),
    "input.dims": _used("requests with other sizes are refused; -1 is any size"),
    "input.reshape.shape": _used("the model gets this shape; callers send dims"),
    "input.is_shape_tensor": _SHAPE_TENSOR,
    "input.allow_ragged_batch": _used(
        "requests of different shapes share a batch; the model gets one flat tensor, a Python model each request's own"
    ),
    "input.optional": _used("requests may leave it out; those that do share no batch with those that do not"),
    "input.is_non_linear_format_io": _NON_LINEAR,
    "output.name": _used("the output's name for callers and the model"),
    "output.data_type": _used("answers of another datatype are failures of the model; those of a TritonPythonModel pass"),
    "output.dims": _used("answers of other sizes are failures of the model; those of a TritonPythonModel pass"),
    "output.reshape.shape": _used("the model returns this shape; callers get dims"),
    "output.label_filename": _used("read at load; its lines are the class names of the classification extension"),
    "output.is_shape_tensor": _SHAPE_TENSOR,
    "output.is_non_linear_format_io": _NON_LINEAR,
    "batch_input.kind": _used("what the batcher tells the model about a batch of several shapes"),
    "batch_input.target_name": _used("the model's inputs that get it; callers do not send them"),
    "batch_input.data_type": _used("INT32 or FP32"),
    "batch_input.source_input": _used("the input whose shapes are told"),
    "batch_output": _used("each request gets as many elements of these outputs as the shape of its input says"),
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
    "dynamic_batching.preferred_batch_size": _used("a batch of such a size leaves at once"),
    "dynamic_batching.max_queue_delay_microseconds": _used("the oldest request waits so long for others"),
    "dynamic_batching.preserve_ordering": _used("answers leave in the order of the requests"),
    "dynamic_batching.priority_levels": _used("requests choose one of so many levels; 1 runs first"),
    "dynamic_batching.default_priority_level": _used("of requests that choose none"),
    "dynamic_batching.default_queue_policy.timeout_action": _used("refuses requests that waited too long, or serves them last"),
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": _used("the longest wait in the queue"),
    "dynamic_batching.default_queue_policy.allow_timeout_override": _used("a request may ask for a shorter wait"),
    "dynamic_batching.default_queue_policy.max_queue_size": _used("requests above it are refused at once"),
    "dynamic_batching.priority_queue_policy.*.timeout_action": _used("the same, at this level"),
    "dynamic_batching.priority_queue_policy.*.default_timeout_microseconds": _used("the longest wait in the queue, at this level"),
    "dynamic_batching.priority_queue_policy.*.allow_timeout_override": _used("a request may ask for a shorter wait, at this level"),
    "dynamic_batching.priority_queue_policy.*.max_queue_size": _used("requests above it are refused at once, at this level"),
    "sequence_batching": _refused("sequences (stateful models) are not supported yet", presence=True),
    "ensemble_scheduling": _refused("ensembles are not supported yet; call the models one after the other", presence=True),
    "instance_group.name": _used("the name of its instances in logs and messages"),
    "instance_group.kind": _used("where its instances run"),
    "instance_group.count": _used("instances per device"),
    "instance_group.gpus": _used("the GPUs that it runs on"),
    "instance_group.rate_limiter.resources.name": _used("with --rate-limit execution_count, a run waits for the resource"),
    "instance_group.rate_limiter.resources.global": _used("the resource is shared by all devices of the worker"),
    "instance_group.rate_limiter.resources.count": _used("how much of the resource a run takes"),
    "instance_group.rate_limiter.priority": _used(
        "with --rate-limit execution_count, priority p gets 1/p of the runs of priority 1 while both wait"
    ),
    "instance_group.secondary_devices": _refused("no backend here runs on NVDLA cores; leave it out"),
    "instance_group.profile": _refused("only TensorRT engines have profiles, and there is no TensorRT backend yet"),
    "instance_group.passive": _refused("every instance that is loaded also runs batches; leave the group out"),
    "instance_group.host_policy": _refused("instances are not bound to NUMA nodes yet; start the worker under numactl"),
    "default_model_filename": _used("the model file in the version's folder"),
    "cc_model_filenames": _refused("one file serves every compute capability; name it in default_model_filename"),
    "metric_tags.*": _used("a label of the model's metrics"),
    "parameters.*.string_value": _used("passed to the backend as it is"),
    "model_warmup.name": _used("names the warm-up in errors"),
    "model_warmup.batch_size": _used("rows of the warm-up"),
    "model_warmup.count": _used("how often it runs before the version is ready"),
    "model_warmup.inputs.*.data_type": _used("of the warm-up's input"),
    "model_warmup.inputs.*.dims": _used("of the warm-up's input, without the batch dimension"),
    "model_warmup.inputs.*.zero_data": _used("the input is zeros"),
    "model_warmup.inputs.*.random_data": _used("the input is random; strings are empty"),
    "model_warmup.inputs.*.input_data_file": _used("the input is this file's bytes, from the model's folder warmup"),
    "model_operations.op_library_filename": _refused(
        "native code is not loaded from a repository; use an onnxruntime that has the operators, or export the model without them"
    ),
    "model_transaction_policy.decoupled": _refused(
        "decoupled models are not supported yet: every request gets one response; leave it out, and return one InferenceResponse "
        "per request from execute"
    ),
    "model_repository_agents.agents.name": _used("the checksum agent compares files before each load"),
    "model_repository_agents.agents.parameters.*": _used("the MD5 that a file must have"),
    "response_cache.enable": _used("equal requests are answered from the worker's cache of --cache-bytes"),
    "model_metrics.metric_control.metric_identifier.family": _used("the histogram whose buckets are set"),
    "model_metrics.metric_control.histogram_options.buckets": _used("upper bounds of the histogram's buckets, in milliseconds"),
}  # fmt: skip
"""By path; `*` stands for the keys of a map. A message that is used or refused as a whole has one row."""

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
