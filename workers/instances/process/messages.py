"""Commands and replies between a worker and its children, as plain lists and maps for msgpack. Pure.

Invariants: decoding returns what was encoded; a request travels without its tensors, which lie in shared memory; an exception
is encoded as its text, its code, its traceback and the names of its classes, never as an object.
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
from workers.backends.tracebacks import LoadError, text_of, trace_of
from workers.instances.job import ModelRaised
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.row_influence import Verdict
from workers.repository.version import ModelVersion

Message = dict[str, Any]


def encode_version(version: ModelVersion) -> Message:
    """A version of a model, with its configuration."""
    return {
        "model": version.model,
        "version": version.version,
        "path": str(version.path),
        "folder": str(version.folder),
        "digest": version.digest,
        "config": version.config.to_json(),
    }


def decode_version(encoded: Message) -> ModelVersion:
    """See `encode_version`."""
    config = ModelConfig.from_json(encoded["config"])
    return ModelVersion(
        encoded["model"], encoded["version"], Path(encoded["path"]), Path(encoded["folder"]), config, encoded["digest"]
    )


def encode_placement(placement: Placement) -> Message:
    """One instance's name and place."""
    return dataclasses.asdict(placement) | {"kind": placement.kind.value}


def decode_placement(encoded: Message) -> Placement:
    """See `encode_placement`."""
    return Placement(**encoded | {"kind": Kind(encoded["kind"])})


def encode_metadata(metadata: BackendMetadata | None) -> Message | None:
    """A model file's metadata."""
    return None if metadata is None else dataclasses.asdict(metadata) | {"unshaped": list(metadata.unshaped)}


def decode_metadata(encoded: Message | None) -> BackendMetadata | None:
    """See `encode_metadata`."""
    if encoded is None:
        return None
    inputs, outputs = (tuple(_spec(spec) for spec in encoded[side]) for side in ("inputs", "outputs"))
    return BackendMetadata(
        inputs,
        outputs,
        encoded["batchable"],
        encoded["max_batch_size"],
        encoded["row_limit"],
        frozenset(encoded["unshaped"]),
    )


def _spec(encoded: Message) -> TensorSpec:
    reshape = encoded["reshape"]
    return TensorSpec(
        **encoded | {"dims": tuple(encoded["dims"]), "reshape": None if reshape is None else tuple(reshape)}
    )  # fmt: skip


def decode_verdict(encoded: Message) -> Verdict:
    """What a check of the batching showed, from `dataclasses.asdict`."""
    shapes = encoded["shapes"]
    return Verdict(
        **encoded | {"shapes": None if shapes is None else {name: tuple(sizes) for name, sizes in shapes.items()}}
    )


def encode_request_head(request: InferRequest) -> list[Any]:
    """Every part of a request that a model may read, with the number of its tensors instead of the tensors."""
    return [
        len(request.inputs), request.id, request.outputs, request.parameters, request.label, request.principal, request.deadline,
        request.priority, request.timeout, request.traceparent,
    ]  # fmt: skip


def decode_requests(
    encoded: Sequence[list[Any]], tensors: Sequence[Tensor], version: ModelVersion
) -> list[InferRequest]:
    """The requests of one batch; their tensors are given in the order of the requests."""
    model, number = version.model, str(version.version)
    requests, position = [], 0
    for count, name, outputs, parameters, label, principal, deadline, priority, timeout, traceparent in encoded:
        inputs = tuple(tensors[position : position + count])
        position += count
        requests.append(
            InferRequest(
                name, model, number, inputs, tuple(outputs), parameters, label, principal, "", deadline, priority, timeout,
                traceparent,
            )
        )  # fmt: skip
    return requests


def encode_outcome(outcome: Sequence[Tensor] | Failure) -> int | list[str]:
    """A failure's code and message, or the number of tensors."""
    return [outcome.code.value, outcome.message] if isinstance(outcome, Failure) else len(outcome)


def decode_outcomes(
    encoded: Sequence[int | list[str]], tensors: Sequence[Tensor]
) -> list[tuple[Tensor, ...] | Failure]:
    """The outcomes of one batch; their tensors are given in the order of the outcomes.

    Raises:
        ValueError: the number of tensors is not the outcomes'.
    """
    outcomes: list[tuple[Tensor, ...] | Failure] = []
    position = 0
    for each in encoded:
        if isinstance(each, int):
            outcomes.append(tuple(tensors[position : position + each]))
            position += each
        else:
            outcomes.append(Failure(Code(each[0]), each[1]))
    if position != len(tensors):
        raise ValueError(f"{len(tensors)} tensors for outcomes that have {position}")
    return outcomes


def encode_error(error: BaseException) -> Message:
    """An exception."""
    known = isinstance(error, FleetError)
    return {
        "text": text_of(error),
        "code": error.code.value if isinstance(error, FleetError) else Code.MODEL_FAILED.value,
        "kinds": [kind.__name__ for kind in type(error).__mro__[:-1]],
        "known": known,
        "trace": error.trace if isinstance(error, LoadError) else trace_of(error),
    }


def decode_model_error(encoded: Message) -> ModelRaised:
    """What a model raised in a run; see `encode_error`."""
    return ModelRaised(encoded["text"], encoded["kinds"], code=Code(encoded["code"]), trace=encoded["trace"])


def decode_load_error(encoded: Message, version: ModelVersion) -> FleetError:
    """What was raised when a model was inspected or loaded; see `encode_error`."""
    code = Code(encoded["code"])
    if not encoded["known"]:
        return LoadError(f"model '{version.model}' version {version.version}: {encoded['text']}", encoded["trace"])
    if code is Code.INVALID_ARGUMENT and encoded["trace"]:
        return LoadError(encoded["text"], encoded["trace"])
    kind = {Code.INVALID_ARGUMENT: ConfigError, Code.MODEL_FAILED: ModelFailed}.get(code, FleetError)
    return kind(encoded["text"], code=code)
