"""Dead letters for tests: written as workers write them (protocol/README.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol.codec import encode_request
from protocol.messages import InferRequest
from protocol.naming import Names
from protocol.ports import Bus, OutRecord
from protocol.tensors import from_array

Pairs = tuple[tuple[str, bytes], ...]


def request(request_id: str = "r1", *, values: Sequence[float] = (1.0, 2.0), **fields: object) -> tuple[bytes, Pairs]:
    """Value and headers of a request for model `m` (one input X, FP32)."""
    tensor = from_array("X", np.array([values], np.float32))
    made = InferRequest(request_id, "m", "1", (tensor,), **fields)  # type: ignore[arg-type]
    value, headers = encode_request(made)
    return value, tuple(headers)


def evidence(reason: str = "poison", *, topic: str = "penstock.infer.m.1", offset: int = 7, **more: str) -> Pairs:
    """The headers that a worker adds after the original's; `more` with `_` for `-`."""
    ours = {
        "dead-reason": reason, "dead-error": "it was ended by a signal", "dead-attempts": "3", "dead-worker": "w1",
        "dead-topic": topic, "dead-partition": "0", "dead-offset": str(offset), "dead-timestamp": "1700000000123",
    } | {"dead-" + name.replace("_", "-"): text for name, text in more.items()}  # fmt: skip
    connect = {
        "topic": topic, "partition": "0", "offset": str(offset), "exception.class.name": "InstanceDied",
        "exception.message": ours["dead-error"], "stage": "TASK_PUT",
    }  # fmt: skip
    named = ours | {f"__connect.errors.{name}": text for name, text in connect.items()}
    return tuple((name, text.encode()) for name, text in named.items())


async def publish_dead_letter(
    bus: Bus, names: Names, value: bytes, headers: Pairs, evidence: Pairs, *, model: str = "m", key: bytes | None = None
) -> None:
    """Put a dead letter into the model's dead topic, and its model into the catalogue."""
    await bus.ensure_topic(names.catalogue_topic, 1, compacted=True)
    await bus.publish(names.catalogue_topic, [OutRecord(b"x", key=f"{model}/1".encode())])
    await bus.ensure_topic(names.dead_topic(model), 1)
    await bus.publish(names.dead_topic(model), [OutRecord(value, (*headers, *evidence), key)])
