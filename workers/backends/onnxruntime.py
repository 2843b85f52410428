"""ONNX models on onnxruntime, on the CPU or on an execution provider such as CUDA or TensorRT.

Parameters of the configuration, with Triton's names: `intra_op_thread_count`, `inter_op_thread_count`, `execution_mode` (0
sequential, 1 parallel), `enable_mem_arena`, `session.<key>` for any of onnxruntime's session entries, and, ours,
`execution_providers`: names in order of preference, such as `CUDAExecutionProvider,CPUExecutionProvider`.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from protocol.errors import Code, ConfigError, InvalidArgument, quoted
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import Array, element_count
from workers.backends import onnx_graph, onnx_shapes, onnx_types
from workers.backends.assembly import Stacked
from workers.backends.base import Instance, Outcome
from workers.backends.cures import add_cure, with_cure
from workers.backends.onnx_bfloat16 import BFloat16Run
from workers.backends.onnx_providers import CPU, providers_of, require_providers
from workers.backends.tensor_instance import TensorInstance
from workers.repository import sniffing
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.sniffing import FileKind
from workers.repository.version import ModelVersion

log = structlog.get_logger(__name__)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # from 1.32 on it tells Microsoft of models and errors otherwise


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """A session on the CPU, and the placement that it was made for."""

    session: Any
    placement: Placement


class OnnxBackend:
    """Loads `model.onnx`."""

    def inspect(self, version: ModelVersion) -> BackendMetadata | None:
        """Inputs and outputs of the graph; it batches if every tensor's first dimension is variable."""
        return _metadata(version, _session(version, _to_look_at(version.config), list(CPU)))

    def open(self, version: ModelVersion, placement: Placement) -> tuple[BackendMetadata | None, _Opened | None]:
        """See `opening`: the session that the instance will run, if that is on the CPU."""
        if providers_of(version.config, placement) != list(CPU):
            return self.inspect(version), None
        session = _session(version, _options(version.config, placement.threads), list(CPU))
        return _metadata(version, session), _Opened(session, placement)

    def usable_gpus(self, gpus: Sequence[int]) -> Sequence[int]:
        """All of them if the installed onnxruntime has CUDA, else none."""
        import onnxruntime as ort

        return gpus if "CUDAExecutionProvider" in ort.get_available_providers() else ()

    def load(self, version: ModelVersion, placement: Placement) -> Instance:
        """One session per instance: sessions share nothing, so instances never wait for each other."""
        providers = providers_of(version.config, placement)
        session = _session(version, _options(version.config, placement.threads), providers)
        require_providers(version.config, providers, session.get_providers())
        return self._instance(version, session)

    def load_opened(self, version: ModelVersion, placement: Placement, opened: _Opened) -> Instance:
        """See `opening`."""
        expected = opened.placement
        if (placement.kind, placement.threads) != (expected.kind, expected.threads):
            return self.load(version, placement)
        return self._instance(version, opened.session)

    def _instance(self, version: ModelVersion, session: Any) -> Instance:
        texts = any(spec.datatype == "BYTES" for spec in version.config.inputs)
        return (OnnxTextInstance if texts else OnnxInstance)(version.config, session)


class OnnxInstance(TensorInstance):
    """One session."""

    def __init__(self, config: ModelConfig, session: Any) -> None:
        super().__init__(config)
        self._session = session
        self._quiet = _without_log()
        bfloat16 = any(spec.datatype == "BF16" for spec in (*config.inputs, *config.outputs))
        self._run: Any = BFloat16Run(session, config).run if bfloat16 else session.run
        self.loop_safe = session.get_providers() == [
            "CPUExecutionProvider"
        ]  # a session's run may be called from any thread

    def with_config(self, config: ModelConfig) -> OnnxInstance:
        """See `opening`: a session keeps nothing of its runs."""
        return type(self)(config, self._session)

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """One run of the graph."""
        try:
            return dict(zip(outputs, self._run(outputs, inputs, self._quiet), strict=True))
        except Exception as exc:
            add_cure(exc)
            raise

    def keep(self, raw: dict[str, Array]) -> dict[str, Array]:
        """Copies nothing: every run of a session makes new arrays."""
        return raw

    def close(self) -> None:
        """Free the session's memory."""
        self._session = self._run = None


@dataclasses.dataclass(slots=True)
class _Batch:
    """A batch with texts, its requests and, after the run, why some of them failed."""

    stacked: Stacked
    requests: Sequence[InferRequest]
    outputs: dict[str, Array] = dataclasses.field(default_factory=dict)
    refused: dict[int, Failure] = dataclasses.field(default_factory=dict)


class OnnxTextInstance(OnnxInstance):
    """A session that takes BYTES as text, onnxruntime's only string type: only a request whose bytes are not UTF-8 is
    refused."""

    def __init__(self, config: ModelConfig, session: Any) -> None:
        super().__init__(config, session)
        self._texts = [spec.name for spec in config.inputs if spec.datatype == "BYTES"]

    def prepare(self, requests: Sequence[InferRequest]) -> Any:
        """Stack; `run` decodes the texts, which delays only its own batch."""
        return _Batch(super().prepare(requests), requests)

    def run(self, prepared: Any) -> Any:
        """Run with an empty text in place of bytes that are not UTF-8."""
        batch: _Batch = prepared
        inputs = dict(batch.stacked.inputs)
        for name in self._texts:
            if name in inputs:
                inputs[name] = self._decode(name, inputs[name], batch)
        if len(batch.refused) == len(batch.requests):
            raise InvalidArgument(batch.refused[0].message)
        batch.outputs = dict(self.compute(inputs, batch.stacked.outputs))
        return batch

    def _decode(self, name: str, array: Array, batch: _Batch) -> Array:
        texts = np.empty(array.shape, dtype=object)
        flat = texts.reshape(-1)
        try:
            flat[:] = [item.decode() for item in array.ravel()]
        except UnicodeDecodeError:
            owner = [
                index
                for index, request in enumerate(batch.requests)
                for tensor in request.inputs
                if tensor.name == name
                for _ in range(element_count(tensor.shape))
            ]
            for place, item in enumerate(array.ravel()):
                try:
                    flat[place] = item.decode()
                except UnicodeDecodeError as exc:
                    flat[place] = ""
                    batch.refused.setdefault(owner[place], Failure(Code.INVALID_ARGUMENT, self._refusal(name, exc)))
        return texts

    def _refusal(self, name: str, error: UnicodeDecodeError) -> str:
        return (
            f"input '{name}' of model '{self.config.name}' holds bytes that are not UTF-8 (0x{error.object[error.start]:02x} at "
            f"byte {error.start} of an element), and an ONNX model takes text; send them encoded, in base64 for example"
        )

    def keep(self, raw: Any) -> Any:
        """See `OnnxInstance.keep`."""
        return raw

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Outcome]:
        """Cut; a refused request gets its failure."""
        batch: _Batch = raw
        outcomes: list[Outcome] = list(super().split(requests, batch.outputs))
        for index, failure in batch.refused.items():
            outcomes[index] = failure
        return outcomes


def _session(version: ModelVersion, options: Any, providers: list[Any]) -> Any:
    import onnxruntime as ort

    if _is_own_format(version.path):
        options.add_session_config_entry("session.load_model_format", "ORT")
    try:
        return ort.InferenceSession(str(version.path), options, providers=providers)
    except Exception as exc:  # onnxruntime raises many types, all of them about the file or the provider
        where = f"onnxruntime cannot load model '{version.model}' version {version.version}"
        raise ConfigError(f"{where}: {with_cure(str(exc))}") from exc


def _without_log() -> Any:
    """Options for runs whose errors are raised and not also logged."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = 4
    return options


def _to_look_at(config: ModelConfig) -> Any:
    """Options for a session that never runs: it skips optimisation, most of the cost of creating one."""
    import onnxruntime as ort

    options = _options(config, 1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _options(config: ModelConfig, threads: int) -> Any:
    """Threads from the configuration, else from the placement; no spinning, which would waste cores that others need."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    parameters = config.parameters
    options.intra_op_num_threads = _number(config, "intra_op_thread_count", threads) or threads
    options.inter_op_num_threads = _number(config, "inter_op_thread_count", 1) or 1
    if _number(config, "execution_mode", 0) == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = _number(config, "enable_mem_arena", 1) != 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for key, value in parameters.items():
        if key.startswith("session."):
            options.add_session_config_entry(key, value)
    options.log_severity_level = 3
    return options


def _number(config: ModelConfig, key: str, default: int) -> int:
    text = config.parameters.get(key, str(default))
    if not text.isdigit():
        raise ConfigError(f"parameter '{key}' of model '{config.name}' must be a number, not {quoted(text)}")
    return int(text)


def _metadata(version: ModelVersion, session: Any) -> BackendMetadata:
    inputs = _inputs(version, session.get_inputs())
    outputs = _outputs(version, session.get_outputs())
    if _is_own_format(version.path):
        return BackendMetadata.of(inputs, outputs)
    scalars, others = _stated(version.path)
    # onnxruntime gives a tensor of unknown rank, also where the file states a wrong one, the same shape as a scalar
    unshaped = {spec.name for spec in (*inputs, *outputs) if not spec.dims and not spec.optional} - scalars
    doubtful = others or onnx_shapes.may_be_an_examples(inputs, outputs)
    return BackendMetadata.of(
        *onnx_shapes.corrected(session, version.config, inputs, outputs, unshaped, doubtful=doubtful)
    )


def _inputs(version: ModelVersion, nodes: Sequence[Any]) -> list[TensorSpec]:
    try:
        return [onnx_types.spec_of(node.name, node.type, node.shape) for node in nodes]
    except ConfigError as exc:
        raise ConfigError(f"model '{version.model}' cannot be served: its input {exc.message}") from None


def _outputs(version: ModelVersion, nodes: Sequence[Any]) -> list[TensorSpec]:
    """The outputs that are tensors; the others are left out with a warning, unless there are only others."""
    specs, problems = [], []
    for node in nodes:
        try:
            specs.append(onnx_types.spec_of(node.name, node.type, node.shape))
        except ConfigError as exc:
            problems.append(f"output {exc.message}")
    if problems and not specs:
        raise ConfigError(f"model '{version.model}' cannot be served: its {problems[0]}")
    for problem in problems:
        log.warning("served without one of its outputs", model=version.model, version=version.version, reason=problem)
    return specs


def _stated(path: Path) -> tuple[frozenset[str], bool]:
    """The tensors that the file states to be scalars, and whether it has operators whose shapes onnxruntime may not infer."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return onnx_graph.scalars(data), bool(onnx_graph.other_domains(data))


def _is_own_format(path: Path) -> bool:
    """Whether it is onnxruntime's own format, which onnxruntime itself goes by the name for."""
    with path.open("rb") as file:
        return sniffing.recognise(file.read(sniffing.HEAD)) is FileKind.ORT
