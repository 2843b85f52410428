"""What a worker and its children tell each other, as plain lists and maps for msgpack. Pure.

Invariants: whatever is told is heard equal; a request's tensors are told apart from it, since they lie in shared memory; an
exception crosses as its text, its code, its traceback and the names of its classes, never as an object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol.errors import Code, ConfigError, FleetError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.model_config import Kind, ModelConfig, TensorSpec
from protocol.tensors import Tensor
from workers.backends.tracebacks import text_of, trace_of
from workers.instances.job import ModelRaised
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion

Told = dict[str, Any]


def tell_version(version: ModelVersion) -> Told:
    """A version of a model, with its configuration as it is."""
    return {
        "model": version.model,
        "version": version.version,
        "path": str(version.path),
        "folder": str(version.folder),
        "digest": version.digest,
        "config": version.config.to_json(),
    }


def hear_version(told: Told) -> ModelVersion:
    """See `tell_version`."""
    config = ModelConfig.from_json(told["config"])
    return ModelVersion(
        told["model"], told["version"], Path(told["path"]), Path(told["folder"]), config, told["digest"]
    )


def tell_placement(placement: Placement) -> Told:
    """One instance's name and place."""
    return dataclasses.asdict(placement) | {"kind": placement.kind.value}


def hear_placement(told: Told) -> Placement:
    """See `tell_placement`."""
    return Placement(**told | {"kind": Kind(told["kind"])})


def tell_metadata(metadata: BackendMetadata | None) -> Told | None:
    """What a model file says of itself."""
    return None if metadata is None else dataclasses.asdict(metadata)


def hear_metadata(told: Told | None) -> BackendMetadata | None:
    """See `tell_metadata`."""
    if told is None:
        return None
    inputs, outputs = (tuple(_spec(spec) for spec in told[side]) for side in ("inputs", "outputs"))
    return BackendMetadata(inputs, outputs, told["batchable"], told["max_batch_size"])


def _spec(told: Told) -> TensorSpec:
    reshape = told["reshape"]
    return TensorSpec(
        **told | {"dims": tuple(told["dims"]), "reshape": None if reshape is None else tuple(reshape)}
    )  # fmt: skip


def tell_request(request: InferRequest) -> list[Any]:
    """All of a request that a model may look at, but its tensors; only how many."""
    return [
        len(request.inputs), request.id, request.outputs, request.parameters, request.label, request.principal, request.deadline,
        request.priority, request.timeout, request.traceparent,
    ]  # fmt: skip


def hear_requests(told: Sequence[list[Any]], tensors: Sequence[Tensor], version: ModelVersion) -> list[InferRequest]:
    """The requests of one batch; their tensors are given in the order of the requests."""
    model, number = version.model, str(version.version)
    requests, position = [], 0
    for count, name, outputs, parameters, label, principal, deadline, priority, timeout, traceparent in told:
        inputs = tuple(tensors[position : position + count])
        position += count
        requests.append(
            InferRequest(
                name, model, number, inputs, tuple(outputs), parameters, label, principal, "", deadline, priority, timeout,
                traceparent,
            )
        )  # fmt: skip
    return requests


def tell_outcome(outcome: Sequence[Tensor] | Failure) -> int | list[str]:
    """A failure with its code, or the number of tensors."""
    return [outcome.code.value, outcome.message] if isinstance(outcome, Failure) else len(outcome)


def hear_outcomes(told: Sequence[int | list[str]], tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...] | Failure]:
    """The outcomes of one batch; their tensors are given in the order of the outcomes.

    Raises:
        ValueError: there are not as many tensors as the outcomes have.
    """
    outcomes: list[tuple[Tensor, ...] | Failure] = []
    position = 0
    for each in told:
        if isinstance(each, int):
            outcomes.append(tuple(tensors[position : position + each]))
            position += each
        else:
            outcomes.append(Failure(Code(each[0]), each[1]))
    if position != len(tensors):
        raise ValueError(f"{len(tensors)} tensors for outcomes that have {position}")
    return outcomes


def tell_error(error: BaseException) -> Told:
    """What was raised."""
    known = isinstance(error, FleetError)
    return {
        "text": text_of(error),
        "code": error.code.value if isinstance(error, FleetError) else Code.MODEL_FAILED.value,
        "kinds": [kind.__name__ for kind in type(error).__mro__[:-1]],
        "known": known,
        "trace": trace_of(error),
    }


def hear_error(told: Told) -> ModelRaised:
    """What a model raised while it ran."""
    return ModelRaised(told["text"], told["kinds"], code=Code(told["code"]), trace=told["trace"])


def hear_refusal(told: Told, version: ModelVersion) -> FleetError:
    """What was raised while a model was read or loaded."""
    code = Code(told["code"])
    if not told["known"]:
        return ConfigError(f"model '{version.model}' version {version.version} cannot be loaded: {told['text']}")
    kind = {Code.INVALID_ARGUMENT: ConfigError, Code.MODEL_FAILED: ModelFailed}.get(code, FleetError)
    return kind(told["text"], code=code)
