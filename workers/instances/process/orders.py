"""The orders that a worker gives to a child, as calls. All of them wait for the answer: never on the event loop."""

from __future__ import annotations

from collections.abc import Sequence

from workers.instances.process.channel import Broken, packed
from workers.instances.process.child import Child
from workers.instances.process.messages import hear_metadata, hear_refusal, tell_placement, tell_version
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion


def inspect(
    child: Child, version: ModelVersion, gpus: Sequence[int] = (), threads: int = 1
) -> tuple[BackendMetadata | None, tuple[int, ...]]:
    """See `Backend.inspect`; also which of the GPUs the backend can use, so that no framework is imported here to ask it.

    Args:
        child: is asked.
        version: as its folder says.
        gpus: of this worker.
        threads: that the libraries of the model's code should use: they are imported now.

    Raises:
        FleetError: the model's own words, as a backend in this process would have raised them.
        InstanceDied: the model ended the child.
    """
    try:
        order = {"do": "inspect", "version": tell_version(version), "gpus": list(gpus), "threads": threads}
        answer, _ = child.ask(packed(order))
    except Broken:
        raise child.obituary(f"while model '{version.model}' was inspected") from None
    if "error" in answer:
        raise hear_refusal(answer["error"], version)
    return hear_metadata(answer["metadata"]), tuple(answer["gpus"])


def load(child: Child, version: ModelVersion, placement: Placement) -> None:
    """See `Backend.load`; also warms up.

    Raises:
        FleetError, InstanceDied: see `inspect`.
    """
    order = {"do": "load", "version": tell_version(version), "placement": tell_placement(placement)}
    try:
        answer, _ = child.ask(packed(order))
    except Broken:
        raise child.obituary(f"while instance '{placement.name}' was loaded") from None
    if "error" in answer:
        raise hear_refusal(answer["error"], version)


def close(child: Child, version: ModelVersion) -> None:
    """See `Instance.close`; the child ends.

    Raises:
        FleetError, InstanceDied: see `inspect`.
    """
    try:
        answer, _ = child.ask(packed({"do": "close"}))
    except Broken:
        raise child.obituary("while it was closed") from None
    if "error" in answer:
        raise hear_refusal(answer["error"], version)
