"""Completes a model's configuration, first from the names of its files, then from the model's own metadata.

Pure: names and metadata in, a configuration out. Invariants: stated settings are never changed, only checked; a completed
configuration passes `ModelConfig.require_complete`.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from protocol.errors import ConfigError, quoted
from protocol.model_config import DynamicBatching, InstanceGroup, ModelConfig, TensorSpec
from protocol.v2 import MAX_TENSORS

DEFAULT_MAX_BATCH_SIZE: Final = 32
"""For a model that can batch and states no size. Triton's 4 dates from when batching was opt-in. Above 32 rows most
models' time per row hardly falls, while a batch's latency and memory still grow.
"""

PLATFORM_BACKEND: Final[dict[str, str]] = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
}
"""The backend for each of Triton's platform names."""

BACKEND_PLATFORM: Final[dict[str, str]] = {
    "onnxruntime": "onnxruntime_onnx",
    "pytorch": "pytorch_libtorch",
    "tensorrt": "tensorrt_plan",
}
"""The platform that a completed configuration shows."""

FILE_BACKEND: Final[dict[str, str]] = {
    "model.plan": "tensorrt",
    "model.onnx": "onnxruntime",
    "model.ort": "onnxruntime",
    "model.pt": "pytorch",
    "model.pt2": "pytorch",
    "model.pth": "pytorch",
    "model.jit": "pytorch",
    "model.py": "python",
}
"""The backend for a file in a version's folder; earlier names win."""

SILENT_BACKENDS: Final = frozenset({"identity"})
"""Backends whose model files do not describe inputs and outputs: the configuration must."""

SUFFIX_BACKEND: Final[dict[str, str]] = {name.removeprefix("model"): backend for name, backend in FILE_BACKEND.items()}
"""The backend of a model file of any name, by its suffix."""

REFUSED_PARAMETERS: Final[dict[str, str]] = {
    "EXECUTION_ENV_PATH": "models run in the worker's own Python environment; install what they need there",
    "TRITON_BATCH_STRATEGY_PATH": "custom batching libraries (native code) are not loaded from a repository",
}
"""Parameters that Triton honours and Penstock does not; all others are passed on to the backend."""


@dataclasses.dataclass(frozen=True, slots=True)
class BackendMetadata:
    """A model file's own metadata.

    Attributes:
        inputs: as a configuration would state them, without the batch dimension if `batchable`; `datatype` is "" if unknown.
        outputs: likewise.
        batchable: the first dimension of every tensor is the batch, of any size.
        max_batch_size: the model's own, if the configuration states none; 0 for none.
        row_limit: rows that the model takes at most; 0 for any number.
        unshaped: names of the tensors whose number of dimensions the file does not state; their dims are ().
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    max_batch_size: int = 0
    row_limit: int = 0
    unshaped: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], unshaped: Collection[str] = ()
    ) -> BackendMetadata:
        """From tensors with the model's full shapes; batchable if all first dimensions are -1 (Triton's rule for ONNX)."""
        batchable = bool(inputs) and all(spec.dims[:1] == (-1,) for spec in (*inputs, *outputs))
        skip = 1 if batchable else 0
        sides = [tuple(dataclasses.replace(spec, dims=spec.dims[skip:]) for spec in side) for side in (inputs, outputs)]
        return cls(sides[0], sides[1], batchable, unshaped=frozenset(unshaped))


def infer_backend(config: ModelConfig, files: Collection[str]) -> ModelConfig:
    """Fill in `backend`, `platform` and `default_model_filename` from each other and from the files in the version's folder.

    Raises:
        ConfigError: no backend can be inferred, the platform is unknown or another backend's, or a parameter is refused.
    """
    for parameter, why in REFUSED_PARAMETERS.items():
        if parameter in config.parameters:
            raise ConfigError(f"parameter '{parameter}' of model '{config.name}' is not supported: {why}")
    backend = config.backend or _platform_backend(config) or _file_backend(config, files)
    of_platform = PLATFORM_BACKEND.get(config.platform)
    if config.platform and of_platform != backend and (of_platform or backend in FILE_BACKEND.values()):
        pair = f"{config.platform}, {config.backend}"
        raise ConfigError(f"unexpected 'platform' and 'backend' pair, got:{pair} for {config.name}")
    candidates = [name for name, owner in FILE_BACKEND.items() if owner == backend]
    present = [name for name in candidates if name in files]
    return dataclasses.replace(
        config,
        backend=backend,
        platform=config.platform or BACKEND_PLATFORM.get(backend, ""),
        default_model_filename=config.default_model_filename or next(iter(present or candidates), ""),
    )


def _platform_backend(config: ModelConfig) -> str:
    if config.platform and config.platform not in PLATFORM_BACKEND:
        known = ", ".join(PLATFORM_BACKEND)
        raise ConfigError(f"unexpected platform type '{config.platform}' for {config.name}; known are: {known}")
    return PLATFORM_BACKEND.get(config.platform, "")


def _file_backend(config: ModelConfig, files: Collection[str]) -> str:
    if config.default_model_filename:
        found = SUFFIX_BACKEND.get(f".{config.default_model_filename.rpartition('.')[2]}", "")
    else:
        found = next((backend for name, backend in FILE_BACKEND.items() if name in files), "")
    suffix = config.name.partition(".")[2]
    found = found or (suffix if suffix.isidentifier() else "")
    if not found:
        raise ConfigError(
            f"Could not determine backend for model '{config.name}' with no backend in model configuration: "
            f"its version folder has none of {', '.join(FILE_BACKEND)}; {_stray(files)}set 'backend' in config.pbtxt, "
            "or call the model 'name.<backend_name>'"
        )
    return found


def _stray(files: Collection[str]) -> str:
    """What to do with a file that would be the model's if it had another name, before "set 'backend'"; "" if there is none."""
    for name in sorted(files):
        suffix = f".{name.rpartition('.')[2].lower()}"
        if suffix in SUFFIX_BACKEND and suffix != ".py":
            return f"rename '{name}' to 'model{suffix}', or state default_model_filename: {quoted(name)}; else "
        if suffix in (".savedmodel", ".graphdef"):
            return f"'{name}' is TensorFlow's: export the model to ONNX with tf2onnx; for a backend of your own "
    return ""


def complete(
    config: ModelConfig, metadata: BackendMetadata | None, default_max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
) -> ModelConfig:
    """Fill in what the configuration leaves out, and check the rest against the model.

    Tensors come from the model. `max_batch_size` is `default_max_batch_size` for a model that can batch and whose tensors are not
    stated with their batch dimension, else 0. Dynamic batching is on if batches are possible; its preferred size is the maximum.
    There is one instance group of `KIND_AUTO`.

    Args:
        config: with its backend known.
        metadata: None if the model file has none.
        default_max_batch_size: at least 0; with 0 only configurations that ask for it batch.

    Raises:
        ConfigError: the configuration contradicts the model, or leaves out what the model does not say.
    """
    rows = _max_batch_size(config, metadata, default_max_batch_size)
    inputs, outputs = config.inputs, config.outputs
    if metadata is not None:
        inputs, outputs = _scalars(inputs, metadata.inputs, metadata), _scalars(outputs, metadata.outputs, metadata)
        made = {name for each in config.batch_inputs for name in each.targets}
        given = [spec for spec in metadata.inputs if spec.name not in made]
        inputs = inputs or tuple(_as_stated("input", spec, metadata, rows, config.name) for spec in given)
        outputs = outputs or tuple(_as_stated("output", spec, metadata, rows, config.name) for spec in metadata.outputs)
    completed = dataclasses.replace(
        config,
        max_batch_size=rows,
        batch_size_stated=True,
        inputs=inputs,
        outputs=outputs,
        dynamic_batching=_batching(config.dynamic_batching, rows),
        instance_groups=_named_groups(config),
    )
    if metadata is not None:
        _check_against_model(completed, metadata)
    completed.require_complete()
    stated_limit(completed.parameters, completed.name)
    return completed


def as_stated(config: ModelConfig) -> ModelConfig:
    """The configuration without anything from the model (`--disable-auto-complete-config`): an unstated `max_batch_size` is 0, and
    batching is as stated.

    Raises:
        ConfigError: it leaves something out.
    """
    completed = dataclasses.replace(
        config,
        batch_size_stated=True,
        dynamic_batching=None
        if config.dynamic_batching is None
        else _batching(config.dynamic_batching, config.max_batch_size),
        instance_groups=_named_groups(config),
    )
    completed.require_complete()
    stated_limit(completed.parameters, completed.name)
    return completed


def _named_groups(config: ModelConfig) -> tuple[InstanceGroup, ...]:
    groups = config.instance_groups or (InstanceGroup(),)
    return tuple(
        dataclasses.replace(group, name=group.name or f"{config.name}_{index}") for index, group in enumerate(groups)
    )


def _max_batch_size(config: ModelConfig, metadata: BackendMetadata | None, default: int) -> int:
    batchable = metadata is not None and metadata.batchable
    if config.batch_size_stated:
        if metadata is not None and not batchable and config.max_batch_size > 0:
            raise ConfigError(
                f"autofill failed for model '{config.name}': model does not support batching while non-zero "
                "max_batch_size is specified; its first dimensions are not all of any size"
            )
        if metadata is not None and 0 < metadata.row_limit < config.max_batch_size:
            raise ConfigError(
                f"max_batch_size of model '{config.name}' is {config.max_batch_size}, and its file takes at most "
                f"{metadata.row_limit} rows at once"
            )
        return config.max_batch_size
    if metadata is None or not batchable or _states_batch_dimension(config, metadata):
        return 0
    return metadata.max_batch_size or min(default, metadata.row_limit or default)


def _states_batch_dimension(config: ModelConfig, metadata: BackendMetadata) -> bool:
    """Whether a tensor is stated with its batch dimension."""
    ranks = {spec.name: 1 + len(spec.dims) for spec in (*metadata.inputs, *metadata.outputs)}
    stated = [spec for spec in (*config.inputs, *config.outputs) if not _is_flat(config, spec)]
    return any(ranks.get(spec.name) == len(spec.model_dims) for spec in stated)


def _is_flat(config: ModelConfig, spec: TensorSpec) -> bool:
    """Whether the model sees the tensor without a batch dimension, as the elements of all requests of a ragged batch."""
    return spec.allow_ragged_batch or any(spec.name in cut.targets for cut in config.batch_outputs)


def _as_stated(kind: str, spec: TensorSpec, metadata: BackendMetadata, rows: int, model: str) -> TensorSpec:
    """The model's own tensor as a configuration states it: a scalar as one element; with the batch dimension if there is no
    batching."""
    if spec.name in metadata.unshaped:
        flag = f", or on the command line: --input {shlex.quote(f'{spec.name}:{spec.datatype}:DIMS')}"
        raise ConfigError(
            f"the file of model '{model}' does not state how many dimensions its {kind} '{spec.name}' has: state its {kind}s in "
            f"config.pbtxt{flag if kind == 'input' else ''}"
        )
    dims = (-1, *spec.dims) if metadata.batchable and not rows else spec.dims
    return dataclasses.replace(spec, dims=dims) if dims else dataclasses.replace(spec, dims=(1,), reshape=())


def _scalars(
    stated: tuple[TensorSpec, ...], own: Sequence[TensorSpec], metadata: BackendMetadata
) -> tuple[TensorSpec, ...]:
    """The stated tensors; one element that is a scalar in a model that does not batch is reshaped, as Triton does unasked."""
    scalars = {spec.name for spec in own if not spec.dims and not metadata.batchable} - metadata.unshaped
    return tuple(
        dataclasses.replace(spec, reshape=())
        if spec.name in scalars and spec.reshape is None and set(spec.dims) == {1}
        else spec
        for spec in stated
    )


def _batching(batching: DynamicBatching | None, rows: int) -> DynamicBatching | None:
    if batching is None and rows > 1:
        batching = DynamicBatching()
    if batching is not None and not batching.preferred_batch_sizes and rows:
        return dataclasses.replace(batching, preferred_batch_sizes=(rows,))
    return batching


def _check_against_model(config: ModelConfig, metadata: BackendMetadata) -> None:
    _check_number_of_inputs(config)
    _check_tensors("input", config, metadata)
    _check_tensors("output", config, metadata)
    made = {name: each.datatype for each in config.batch_inputs for name in each.targets}
    _check_batch_inputs(config, metadata, made)
    missing = [
        spec.name
        for spec in metadata.inputs
        if config.input(spec.name) is None and not spec.optional and spec.name not in made
    ]
    if missing:
        raise ConfigError(
            f"unable to load model '{config.name}', configuration expects {len(config.inputs)} inputs, model provides "
            f"{len(metadata.inputs)}: '{missing[0]}' is not in the configuration"
        )


def _check_number_of_inputs(config: ModelConfig) -> None:
    from_a_file = config.backend in FILE_BACKEND.values() and config.backend != "python"
    if from_a_file and not config.inputs and not config.batch_inputs:
        raise ConfigError(
            f"model '{config.name}' takes no inputs, so there is nothing that a request could ask it: export it again with what "
            "varies as an input"
        )
    if len(config.inputs) > MAX_TENSORS:
        raise ConfigError(
            f"model '{config.name}' takes {len(config.inputs)} inputs, and a request holds at most {MAX_TENSORS} tensors: export "
            "it again with one input for the columns of each datatype"
        )


def _check_batch_inputs(config: ModelConfig, metadata: BackendMetadata, made: Mapping[str, str]) -> None:
    """Check the tensors that the batcher makes against the model's inputs; a Python model may do without them."""
    own = {spec.name: spec for spec in metadata.inputs}
    for name, datatype in made.items():
        if name not in own and config.backend != "python":
            raise ConfigError(
                f"unexpected batch input '{name}' for model '{config.name}', its file's inputs are: {', '.join(own)}"
            )
        if name in own and own[name].datatype not in ("", datatype):
            raise ConfigError(
                f"unable to load model '{config.name}', configuration expects datatype {datatype} for batch input '{name}', model "
                f"provides {own[name].datatype}"
            )


def _check_tensors(kind: str, config: ModelConfig, metadata: BackendMetadata) -> None:
    stated, given = (config.inputs, metadata.inputs) if kind == "input" else (config.outputs, metadata.outputs)
    own = {spec.name: spec for spec in given}
    for spec in stated:
        if spec.name not in own:
            raise ConfigError(
                f"unexpected inference {kind} '{spec.name}' for model '{config.name}', allowed {kind}s are: {', '.join(own)}"
            )
        model = own[spec.name]
        if model.datatype and model.datatype != spec.datatype:
            raise ConfigError(
                f"unable to load model '{config.name}', configuration expects datatype {spec.datatype} for {kind} "
                f"'{spec.name}', model provides {model.datatype}"
            )
        full = (-1, *model.dims) if metadata.batchable else model.dims
        problem = "" if spec.name in metadata.unshaped else _shape_problem(config, spec, full)
        if problem:
            raise ConfigError(f"unable to load model '{config.name}', {kind} '{spec.name}': {problem}")


def _shape_problem(config: ModelConfig, spec: TensorSpec, own: tuple[int, ...]) -> str:
    if config.batching and config.backend != "python" and _is_flat(config, spec):
        return _flat_problem(spec, own)
    shape = (-1, *spec.model_dims) if config.batching else spec.model_dims
    batch = " (an initial batch dimension because max_batch_size > 0)" if config.batching else ""
    if len(shape) != len(own):
        return (
            f"the model expects {len(own)} dimensions (shape {list(own)}) but the model configuration specifies "
            f"{len(shape)} dimensions{batch}, making complete shape {list(shape)}"
        )
    if any(want not in (-1, have) for have, want in zip(shape, own, strict=True)):
        return f"the model expects shape {list(own)} but the model configuration specifies shape {list(shape)}{batch}"
    return ""


def _flat_problem(spec: TensorSpec, own: tuple[int, ...]) -> str:
    """A ragged input must have one dimension of any size; an output that is cut by its input's shape may have any shape."""
    if spec.allow_ragged_batch and own != (-1,):
        return (
            f"the model expects shape {list(own)}, but with allow_ragged_batch it gets one flat tensor, of shape [-1]"
        )
    return ""


def stated_limit(parameters: Mapping[str, str], model: str) -> float | None:
    """The model's parameter `max_execution_ms` in seconds; None if it is not set, infinite for 0.

    Raises:
        ConfigError: it is not a number of milliseconds.
    """
    text = parameters.get("max_execution_ms")
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = -1.0
    if not 0 <= milliseconds < math.inf:
        raise ConfigError(
            f"parameter max_execution_ms of model '{model}' is {quoted(text)}; it must be a number of milliseconds, 0 for no limit"
        )
    return milliseconds / 1000 or math.inf
