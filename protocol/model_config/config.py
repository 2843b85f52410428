"""The model configuration as a typed value: workers run by it, gateways check by it, and `/v2/models/<m>/config` shows it. Pure.

Invariant: an instance satisfies every rule of `checks` that its stated fields decide; `require_complete` checks the rest. `fields`
says what a document may hold; `pbtxt` is its text form.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.model_config import checks
from protocol.model_config.batching import DynamicBatching
from protocol.model_config.document import MAX_INT32, Document, as_object
from protocol.model_config.fields import check_supported
from protocol.model_config.parts import (
    InstanceGroup,
    MetricControl,
    Optimization,
    RepositoryAgent,
    TensorSpec,
    VersionPolicy,
    Warmup,
)
from protocol.model_config.ragged import BatchInput, BatchOutput, check_batch_io, check_scatters

WITHOUT_TENSORS: Final = frozenset({"python"})
"""Backends whose models may have no inputs or no outputs, as in Triton."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model's inputs and outputs, and how it is batched, placed and warmed up.

    Attributes:
        name: of the model; "" until the folder's name is known.
        platform: Triton's older name of the backend and format, such as `onnxruntime_onnx`.
        backend: the name of an entry point of `penstock.backends`; "" until it is inferred.
        max_batch_size: rows per request and batch; 0 is a model without a batch dimension.
        batch_size_stated: false if the file omits it, so that completion chooses `max_batch_size`.
        inputs: in the file's order.
        outputs: in the file's order.
        version_policy: which version folders are served.
        instance_groups: where the instances run; empty means one group of `KIND_AUTO`.
        dynamic_batching: None runs every request alone.
        parameters: passed to the backend unchanged.
        metric_tags: labels of the model's metrics.
        warmups: requests to run before the model is ready.
        default_model_filename: the file in the version folder; "" is the backend's default.
        optimization: hints without effect on answers.
        batch_inputs: tensors that the model gets about a ragged batch.
        batch_outputs: outputs of ragged batches that are cut by their inputs' shapes.
        response_cache: whether answers may come from the cache; None if the file does not say.
        agents: checks of the files before they are loaded.
        metric_controls: buckets of the model's histograms.

    Raises:
        ConfigError: a rule is broken; the message names the field and the model.
    """

    name: str = ""
    platform: str = ""
    backend: str = ""
    max_batch_size: int = 0
    batch_size_stated: bool = True
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    version_policy: VersionPolicy = dataclasses.field(default_factory=VersionPolicy)
    instance_groups: tuple[InstanceGroup, ...] = ()
    dynamic_batching: DynamicBatching | None = None
    parameters: dict[str, str] = dataclasses.field(default_factory=dict)
    metric_tags: dict[str, str] = dataclasses.field(default_factory=dict)
    warmups: tuple[Warmup, ...] = ()
    default_model_filename: str = ""
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    batch_inputs: tuple[BatchInput, ...] = ()
    batch_outputs: tuple[BatchOutput, ...] = ()
    response_cache: bool | None = None
    agents: tuple[RepositoryAgent, ...] = ()
    metric_controls: tuple[MetricControl, ...] = ()

    def __post_init__(self) -> None:
        model = self.name or "a model without a name"
        if self.max_batch_size < 0:
            raise ConfigError(f"'max_batch_size' must be non-negative value for {model}")
        rows = self.max_batch_size if self.batch_size_stated else None
        checks.check_tensors("input", self.inputs, model=model)
        checks.check_tensors("output", self.outputs, model=model)
        if self.dynamic_batching is not None:
            checks.check_batching(self.dynamic_batching, rows, model)
        checks.check_groups(self.instance_groups, model)
        checks.check_warmups(self.warmups, rows, model)
        checks.check_file_name(self.default_model_filename, f"'default_model_filename' of {model}")
        check_batch_io(self.batch_inputs, self.batch_outputs, self.inputs, self.outputs, model)
        checks.check_agents(self.agents, model)
        checks.check_metrics(self.metric_controls, model)

    @property
    def ragged(self) -> bool:
        """Whether requests of different shapes may share a batch."""
        return self.batching and any(spec.allow_ragged_batch for spec in self.inputs)

    @property
    def batching(self) -> bool:
        """Whether every tensor's first dimension is the batch."""
        return self.max_batch_size > 0

    def shape_of(self, spec: TensorSpec) -> tuple[int, ...]:
        """The tensor's shape in V2 metadata: with a leading -1 if the model batches."""
        return (-1, *spec.dims) if self.batching else spec.dims

    def input(self, name: str) -> TensorSpec | None:
        """The input of that name."""
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        """The output of that name."""
        return next((spec for spec in self.outputs if spec.name == name), None)

    def require_complete(self) -> None:
        """Check the rules that only a completed configuration can satisfy.

        Raises:
            ConfigError: names what is missing.
        """
        if not self.name:
            raise ConfigError("model configuration must specify 'name'")
        if not self.backend:
            raise ConfigError(f"must specify 'platform' or 'backend' for '{self.name}'")
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            if not specs and self.backend not in WITHOUT_TENSORS:
                raise ConfigError(f"model configuration must specify at least one '{kind}' for {self.name}")
        if not self.batch_size_stated:
            raise ConfigError(f"must specify 'max_batch_size' for {self.name}")
        if not self.instance_groups:
            raise ConfigError(f"must specify one or more 'instance group's for {self.name}")
        checks.check_warmup_inputs(self.warmups, {spec.name: spec for spec in self.inputs}, self.name)
        check_scatters(self.batch_outputs, {spec.name: spec for spec in (*self.inputs, *self.outputs)}, self.name)

    @classmethod
    def from_json(cls, document: object) -> ModelConfig:
        """Read Triton's JSON form, complete or not; enum names in any case, 64-bit integers as numbers or text.

        Raises:
            ConfigError: a field is unknown, not supported, of the wrong type, or breaks a rule; the message names it.
        """
        check_supported(as_object(document, ""))
        return cls._of(Document(document))

    @classmethod
    def _of(cls, document: Document) -> ModelConfig:
        parameters = document.documents_by_key("parameters")
        batching = document.document("dynamic_batching")
        metrics = document.document("model_metrics")
        cache, agents = document.document("response_cache"), document.document("model_repository_agents")
        return cls(
            name=document.text("name"),
            platform=document.text("platform"),
            backend=document.text("backend"),
            max_batch_size=document.integer("max_batch_size", -MAX_INT32, MAX_INT32),
            batch_size_stated="max_batch_size" in document,
            inputs=tuple(map(TensorSpec.of, document.documents("input"))),
            outputs=tuple(map(TensorSpec.of, document.documents("output"))),
            version_policy=VersionPolicy.of(document.document("version_policy")),
            instance_groups=tuple(map(InstanceGroup.of, document.documents("instance_group"))),
            dynamic_batching=None if batching is None else DynamicBatching.of(batching),
            parameters={name: value.text("string_value") for name, value in parameters.items()},
            metric_tags=document.texts_by_key("metric_tags"),
            warmups=tuple(map(Warmup.of, document.documents("model_warmup"))),
            default_model_filename=document.text("default_model_filename"),
            optimization=Optimization.of(document.document("optimization")),
            batch_inputs=tuple(map(BatchInput.of, document.documents("batch_input"))),
            batch_outputs=tuple(map(BatchOutput.of, document.documents("batch_output"))),
            response_cache=None if cache is None else cache.flag("enable"),
            metric_controls=()
            if metrics is None
            else tuple(map(MetricControl.of, metrics.documents("metric_control"))),
            agents=() if agents is None else tuple(map(RepositoryAgent.of, agents.documents("agents"))),
        )

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON form: snake_case, every primitive printed, enums by name, 64-bit integers as numbers.

        `max_batch_size` is left out while it is not stated.
        """
        document: dict[str, Any] = {
            "name": self.name,
            "platform": self.platform,
            "backend": self.backend,
            "runtime": "",
            "version_policy": self.version_policy.to_json(),
            "max_batch_size": self.max_batch_size,
            "input": [spec.input_json() for spec in self.inputs],
            "output": [spec.output_json() for spec in self.outputs],
            "batch_input": [made.to_json() for made in self.batch_inputs],
            "batch_output": [cut.to_json() for cut in self.batch_outputs],
            "optimization": self.optimization.to_json(),
            "instance_group": [group.to_json() for group in self.instance_groups],
            "default_model_filename": self.default_model_filename,
            "cc_model_filenames": {},
            "metric_tags": dict(self.metric_tags),
            "parameters": {name: {"string_value": value} for name, value in self.parameters.items()},
            "model_warmup": [warmup.to_json() for warmup in self.warmups],
        }
        if self.dynamic_batching is not None:
            document["dynamic_batching"] = self.dynamic_batching.to_json()
        if self.agents:
            document["model_repository_agents"] = {"agents": [agent.to_json() for agent in self.agents]}
        if self.response_cache is not None:
            document["response_cache"] = {"enable": self.response_cache}
        if self.metric_controls:
            document["model_metrics"] = {"metric_control": [control.to_json() for control in self.metric_controls]}
        if not self.batch_size_stated:
            del document["max_batch_size"]
        return document
