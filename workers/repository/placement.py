"""Which instances of a model run where, by the rules of Triton's instance groups. Pure.

Invariant: the same configuration, devices and cores always give the same instances, in the same order, each with its own name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from protocol.errors import ConfigError
from protocol.model_config import InstanceGroup, Kind, ModelConfig
from protocol.model_config.checks import MAX_INSTANCES


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """One instance of a model.

    Attributes:
        name: `<group>_<number>`; a group without a name is called `<model>_<i>`.
        kind: CPU, GPU, or MODEL if the backend decides.
        device_id: the GPU's number; None for other kinds.
        threads: CPU threads that it may use for one batch, at least 1.
        group: the index of its instance group.
    """

    name: str
    kind: Kind
    device_id: int | None
    threads: int
    group: int = 0


def place(config: ModelConfig, gpus: Sequence[int], cores: int) -> tuple[Placement, ...]:
    """The instances of a model on one worker.

    The cores are divided evenly: several instances with as many threads as cores each would only slow each other down.

    Args:
        config: the model's; a model without instance groups has one group of `KIND_AUTO`.
        gpus: the numbers of the GPUs that this worker may use and the model's backend can use.
        cores: CPU cores that this worker may use.

    Raises:
        ConfigError: a group names a GPU that this worker does not have.
    """
    groups = config.instance_groups or (InstanceGroup(),)
    placed: list[tuple[str, Kind, int | None, int]] = []
    for index, group in enumerate(groups):
        name = group.name or f"{config.name}_{index}"
        kind, devices = _devices(group, name, config.name, gpus)
        placed.extend(
            (f"{name}_{number}", kind, device, index)
            for number, device in enumerate(device for device in devices for _ in range(group.count))
        )
        if len(placed) > MAX_INSTANCES:
            raise ConfigError(f"model {config.name} has more than {MAX_INSTANCES} instances on this worker")
    threads = max(1, cores // len(placed))
    return tuple(Placement(name, kind, device, threads, group) for name, kind, device, group in placed)


def expected_place(config: ModelConfig, gpus: Sequence[int], threads: int = 0, *, cores: int = 1) -> Placement | None:
    """What the first instance will get, unless completing the configuration changes its groups; None if that is an error.

    Args:
        config, gpus, cores: see `place`.
        threads: of the instance, if they are known; 0 if they follow from `cores`.
    """
    try:
        first = place(config, gpus, cores)[0]
    except ConfigError:  # reported when the instances are placed
        return None
    return dataclasses.replace(first, threads=threads) if threads else first


def _devices(group: InstanceGroup, name: str, model: str, gpus: Sequence[int]) -> tuple[Kind, tuple[int | None, ...]]:
    """The kind of a group on this worker, and the device of each of its sets of instances."""
    if group.kind in (Kind.CPU, Kind.MODEL):
        return group.kind, (None,)
    missing = [device for device in group.gpus if device not in gpus]
    if group.kind is Kind.AUTO and (missing or not gpus):
        return Kind.CPU, (None,)
    if not gpus:
        raise ConfigError(f"instance group {name} of model {model} has kind KIND_GPU but no GPUs are available")
    if missing:
        available = ", ".join(map(str, gpus))
        raise ConfigError(
            f"instance group {name} of model {model} specifies invalid or unsupported gpu id {missing[0]}. "
            f"GPUs of this worker are: {available}"
        )
    return Kind.GPU, tuple(group.gpus or gpus)
