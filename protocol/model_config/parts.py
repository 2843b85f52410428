"""The parts of a model configuration as typed values; each is read from a document and written as one. Pure.

Invariant: V2 datatype names inside (`BYTES`), Triton's in documents (`TYPE_STRING`). A part checks what it can see alone; rules
between parts are in `checks`.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.model_config.document import MAX_INT32, MAX_INT64, Document
from protocol.tensors import ITEM_SIZE

FORMATS: Final = ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW")
PRIORITIES: Final = ("PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN")

TYPE_NAME: Final = {name: "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}" for name in ITEM_SIZE}
DATATYPE: Final = {"TYPE_INVALID": ""} | {type_name: name for name, type_name in TYPE_NAME.items()}


class Kind(enum.StrEnum):
    """Where the instances of a group run."""

    AUTO = "KIND_AUTO"
    GPU = "KIND_GPU"
    CPU = "KIND_CPU"
    MODEL = "KIND_MODEL"


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model.

    Attributes:
        name: the tensor's name.
        datatype: V2 name, a key of `ITEM_SIZE`; "" if the file omits it.
        dims: sizes for callers, without the batch dimension; -1 is any size.
        optional: a request may leave the input out.
        reshape: sizes for the model, if they differ from `dims`; () is a scalar, or one per row.
        allow_ragged_batch: requests of different shapes may share a batch; the model gets the elements of all as one flat tensor.
        label_filename: names of the classes, for the classification extension; in the model's folder.
        format: NHWC or NCHW say what the three dims of an image mean; nothing is transposed.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False
    reshape: tuple[int, ...] | None = None
    allow_ragged_batch: bool = False
    label_filename: str = ""
    format: str = "FORMAT_NONE"

    @property
    def model_dims(self) -> tuple[int, ...]:
        """The dims for the model: `reshape` if there is one."""
        return self.dims if self.reshape is None else self.reshape

    @classmethod
    def of(cls, document: Document) -> TensorSpec:
        """Read an `input` or `output`."""
        reshape = document.document("reshape")
        return cls(
            name=document.text("name"),
            datatype=DATATYPE[document.choice("data_type", tuple(DATATYPE))],
            dims=document.integers("dims", -MAX_INT64, MAX_INT64),
            optional=document.flag("optional"),
            reshape=None if reshape is None else reshape.integers("shape", -MAX_INT64, MAX_INT64),
            allow_ragged_batch=document.flag("allow_ragged_batch"),
            label_filename=document.text("label_filename"),
            format=document.choice("format", FORMATS),
        )

    def input_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelInput`."""
        return self._json(
            format=self.format, allow_ragged_batch=self.allow_ragged_batch, optional=self.optional
        )  # fmt: skip

    def output_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelOutput`."""
        return self._json(label_filename=self.label_filename)

    def _json(self, **more: object) -> dict[str, Any]:
        document: dict[str, Any] = {
            "name": self.name,
            "data_type": TYPE_NAME.get(self.datatype, "TYPE_INVALID"),
            "dims": list(self.dims),
            "is_shape_tensor": False,
            "is_non_linear_format_io": False,
            **more,
        }
        if self.reshape is not None:
            document["reshape"] = {"shape": list(self.reshape)}
        return document


@dataclasses.dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are served: the newest `latest`, or those of `specific`, or, with neither, all."""

    latest: int | None = 1
    specific: tuple[int, ...] | None = None

    def select(self, versions: Collection[int]) -> tuple[int, ...]:
        """The existing versions that are served, ascending."""
        there = sorted(versions)
        if self.specific is not None:
            return tuple(version for version in there if version in self.specific)
        return tuple(there if self.latest is None else there[-self.latest :])

    @classmethod
    def of(cls, document: Document | None) -> VersionPolicy:
        """Read a `version_policy`; without one, the latest version."""
        if document is None:
            return cls()
        chosen = [key for key in ("latest", "all", "specific") if key in document]
        if len(chosen) > 1:
            raise ConfigError(f"'{document.path}' must be one of latest, all and specific, not {' and '.join(chosen)}")
        if latest := document.document("latest"):
            return cls(latest=latest.integer("num_versions") or 1)
        if specific := document.document("specific"):
            return cls(latest=None, specific=specific.integers("versions", 0, MAX_INT64))
        return cls(latest=None) if "all" in document else cls()

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelVersionPolicy`."""
        if self.specific is not None:
            return {"specific": {"versions": list(self.specific)}}
        return {"all": {}} if self.latest is None else {"latest": {"num_versions": self.latest}}


@dataclasses.dataclass(frozen=True, slots=True)
class Resource:
    """What a run of an instance occupies: so many of a name, on its device or, if `everywhere`, of all devices together."""

    name: str
    count: int
    everywhere: bool = False

    @classmethod
    def of(cls, document: Document) -> Resource:
        """Read one of `rate_limiter.resources`."""
        return cls(document.text("name"), document.integer("count"), document.flag("global"))

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelRateLimiter.Resource`."""
        return {"name": self.name, "global": self.everywhere, "count": self.count}


@dataclasses.dataclass(frozen=True, slots=True)
class RateLimiter:
    """What each run of an instance occupies, and its weight: priority 2 gets half as many runs as 1; 0 is 1."""

    resources: tuple[Resource, ...] = ()
    priority: int = 0

    @classmethod
    def of(cls, document: Document) -> RateLimiter:
        """Read a `rate_limiter`."""
        return cls(tuple(map(Resource.of, document.documents("resources"))), document.integer("priority"))

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelRateLimiter`."""
        return {"resources": [resource.to_json() for resource in self.resources], "priority": self.priority}


@dataclasses.dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Copies of the model of one kind. With `KIND_GPU` there are `count` on each of `gpus`, or on each GPU if it is empty."""

    name: str = ""
    kind: Kind = Kind.AUTO
    count: int = 1
    gpus: tuple[int, ...] = ()
    rate_limiter: RateLimiter | None = None

    @classmethod
    def of(cls, document: Document) -> InstanceGroup:
        """Read an `instance_group`; a count of 0 is 1."""
        limiter = document.document("rate_limiter")
        return cls(
            name=document.text("name"),
            kind=Kind(document.choice("kind", tuple(Kind))),
            count=max(1, document.integer("count", -MAX_INT32, MAX_INT32)),
            gpus=document.integers("gpus", 0, MAX_INT32),
            rate_limiter=None if limiter is None else RateLimiter.of(limiter),
        )

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelInstanceGroup`."""
        return {
            "name": self.name,
            "kind": self.kind.value,
            "count": self.count,
            **({} if self.rate_limiter is None else {"rate_limiter": self.rate_limiter.to_json()}),
            "gpus": list(self.gpus),
            "secondary_devices": [],
            "profile": [],
            "passive": False,
            "host_policy": "",
        }


@dataclasses.dataclass(frozen=True, slots=True)
class WarmupInput:
    """One input of a warm-up request: zeros, random values, or the raw bytes of `<model>/warmup/<file>`.

    `dims` are concrete sizes without the batch dimension; `source` is a key of the document: `zero_data`, `random_data`
    or `input_data_file`.
    """

    datatype: str
    dims: tuple[int, ...]
    source: str = "zero_data"
    file: str = ""

    @classmethod
    def of(cls, document: Document) -> WarmupInput:
        """Read one of `model_warmup.inputs`."""
        chosen = [key for key in ("zero_data", "random_data", "input_data_file") if key in document]
        if len(chosen) != 1:
            raise ConfigError(
                f"'{document.path}' must specify exactly one of zero_data, random_data and input_data_file"
            )
        source = chosen[0]
        file = document.text(source) if source == "input_data_file" else ""
        if source == "input_data_file" and not file:
            raise ConfigError(f"'{document.at(source)}' must be a file name")
        if source != "input_data_file" and not document.flag(source):
            raise ConfigError(f"'{document.at(source)}' must be true")
        return cls(
            datatype=DATATYPE[document.choice("data_type", tuple(DATATYPE))],
            dims=document.integers("dims", -MAX_INT64, MAX_INT64),
            source=source,
            file=file,
        )

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelWarmup.Input`."""
        return {
            "data_type": TYPE_NAME.get(self.datatype, "TYPE_INVALID"),
            "dims": list(self.dims),
            self.source: self.file or True,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Warmup:
    """A request of `batch_size` rows that a version answers `count` times before it is ready."""

    name: str
    batch_size: int
    count: int
    inputs: dict[str, WarmupInput]

    @classmethod
    def of(cls, document: Document) -> Warmup:
        """Read a `model_warmup`; a count of 0 is 1."""
        return cls(
            name=document.text("name"),
            batch_size=document.integer("batch_size"),
            count=document.integer("count") or 1,
            inputs={name: WarmupInput.of(inner) for name, inner in document.documents_by_key("inputs").items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelWarmup`."""
        inputs = {name: tensor.to_json() for name, tensor in self.inputs.items()}
        return {"name": self.name, "batch_size": self.batch_size, "count": self.count, "inputs": inputs}


@dataclasses.dataclass(frozen=True, slots=True)
class Optimization:
    """Hints that change no answer; kept so that the configuration is shown as written."""

    graph_level: int | None = None
    priority: str = "PRIORITY_DEFAULT"
    input_pinned_memory: bool = True
    output_pinned_memory: bool = True
    gather_kernel_buffer_threshold: int = 0
    eager_batching: bool = False

    @classmethod
    def of(cls, document: Document | None) -> Optimization:
        """Read an `optimization`; pinned memory is on by default."""
        if document is None:
            return cls()
        graph = document.document("graph")
        pinned = [document.document(key) for key in ("input_pinned_memory", "output_pinned_memory")]
        return cls(
            graph_level=None if graph is None else graph.integer("level", -MAX_INT32, MAX_INT32),
            priority=document.choice("priority", PRIORITIES),
            input_pinned_memory=pinned[0] is None or pinned[0].flag("enable"),
            output_pinned_memory=pinned[1] is None or pinned[1].flag("enable"),
            gather_kernel_buffer_threshold=document.integer("gather_kernel_buffer_threshold"),
            eager_batching=document.flag("eager_batching"),
        )

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelOptimizationPolicy`."""
        document: dict[str, Any] = {
            "priority": self.priority,
            "input_pinned_memory": {"enable": self.input_pinned_memory},
            "output_pinned_memory": {"enable": self.output_pinned_memory},
            "gather_kernel_buffer_threshold": self.gather_kernel_buffer_threshold,
            "eager_batching": self.eager_batching,
        }
        return document if self.graph_level is None else {"graph": {"level": self.graph_level}} | document


@dataclasses.dataclass(frozen=True, slots=True)
class RepositoryAgent:
    """A check or change of a model's files before they are loaded, by the agent's name."""

    name: str
    parameters: dict[str, str]

    @classmethod
    def of(cls, document: Document) -> RepositoryAgent:
        """Read one of `model_repository_agents.agents`."""
        return cls(document.text("name"), document.texts_by_key("parameters"))

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelRepositoryAgents.Agent`."""
        return {"name": self.name, "parameters": dict(self.parameters)}


@dataclasses.dataclass(frozen=True, slots=True)
class MetricControl:
    """The buckets of one of the model's histograms: upper bounds in the metric's unit, ascending."""

    family: str
    buckets: tuple[float, ...]

    @classmethod
    def of(cls, document: Document) -> MetricControl:
        """Read one of `model_metrics.metric_control`."""
        named, options = document.document("metric_identifier"), document.document("histogram_options")
        return cls("" if named is None else named.text("family"), () if options is None else options.numbers("buckets"))

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelMetrics.MetricControl`."""
        return {"metric_identifier": {"family": self.family}, "histogram_options": {"buckets": list(self.buckets)}}
