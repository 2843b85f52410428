"""Model configurations: what a config.pbtxt may say, what it means, and how it is written.

Decided here: which fields are known, served or refused (`fields`), which values and combinations are allowed (`checks`), what an
omitted field means (`parts`, `batching`, `ragged`). Not decided here: what a model's files say about it
(`workers.repository.completion`).

Import the types from this package, and text from `pbtxt`, which needs protobuf and is therefore not imported here.

Invariants: no I/O; a `ModelConfig` satisfies every rule of `checks` that its stated fields decide; no field is silently ignored.
It may import `errors`, `tensors` and `proto`.
"""

from protocol.model_config.batching import DynamicBatching, QueuePolicy, TimeoutAction
from protocol.model_config.config import ModelConfig
from protocol.model_config.parts import (
    InstanceGroup,
    Kind,
    MetricControl,
    Optimization,
    RateLimiter,
    RepositoryAgent,
    Resource,
    TensorSpec,
    VersionPolicy,
    Warmup,
    WarmupInput,
)
from protocol.model_config.ragged import BatchInput, BatchInputKind, BatchOutput

__all__ = [
    "BatchInput",
    "BatchInputKind",
    "BatchOutput",
    "DynamicBatching",
    "InstanceGroup",
    "Kind",
    "MetricControl",
    "ModelConfig",
    "Optimization",
    "QueuePolicy",
    "RateLimiter",
    "RepositoryAgent",
    "Resource",
    "TensorSpec",
    "TimeoutAction",
    "VersionPolicy",
    "Warmup",
    "WarmupInput",
]
