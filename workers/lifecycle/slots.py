"""The model versions of a worker, and the loads and unloads that leave the wanted ones. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workers.lifecycle.states import State

if TYPE_CHECKING:
    from workers.serving.serving import Serving

Key = tuple[str, str]
"""(model, version)."""


@dataclasses.dataclass(slots=True)
class VersionSlot:
    """One version that this worker has, had or should have.

    Attributes:
        digest: of the files at the last load, successful or not.
        reason: why it is unavailable.
        config: as announced.
        partitions: of its topic, once known.
        labels: as announced.
    """

    state: State = State.UNLOADED
    digest: str = ""
    reason: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    partitions: int = 1
    labels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    serving: Serving | None = None
    since: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """How a model is to be settled.

    Attributes:
        digests: the only ones that may be served; empty for any.
        retry: whether versions that failed before are loaded again although their files are the same.
        reason: what an unloaded version is announced with.
        everywhere: all workers unload it, so that the announcement does not wait for the others.
    """

    digests: tuple[str, ...] = ()
    retry: bool = False
    reason: str = "unloaded"
    everywhere: bool = False

    def allows(self, serving: Serving) -> bool:
        """Whether this may be served."""
        return not self.digests or serving.loaded.version.digest in self.digests


@dataclasses.dataclass(frozen=True, slots=True)
class LoadPlan:
    """The loads and unloads that leave exactly the wanted versions."""

    load: tuple[Key, ...]
    unload: tuple[Key, ...]


def plan_loads(wanted: Mapping[Key, str], slots: Mapping[Key, VersionSlot]) -> LoadPlan:
    """Compare the wanted digests with the loaded ones.

    A version that failed is retried when its files change; one that is loading or unloading is left as it is.
    """
    load, unload = [], []
    for key, digest in wanted.items():
        slot = slots.get(key)
        if slot is None or (slot.state in (State.UNLOADED, State.READY, State.UNAVAILABLE) and slot.digest != digest):
            load.append(key)
    for key, slot in slots.items():
        if key not in wanted and slot.state in (State.READY, State.UNAVAILABLE):
            unload.append(key)
    return LoadPlan(tuple(load), tuple(unload))
