"""The rules for the parts of a model configuration, with Triton's texts where it has one. Pure.

Every check returns nothing or raises `ConfigError`; the message ends with the model's name, as in Triton.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from protocol.errors import ConfigError
from protocol.model_config.batching import DynamicBatching, QueuePolicy, TimeoutAction
from protocol.model_config.parts import (
    InstanceGroup,
    Kind,
    MetricControl,
    RateLimiter,
    RepositoryAgent,
    TensorSpec,
    Warmup,
)
from protocol.tensors import MAX_RANK

MAX_INSTANCES: Final = 1024
"""Instances of one group and device; a typo must not start a million threads."""

FIRST_RESPONSE: Final = "nv_inference_first_response_histogram_ms"
"""The only histogram whose buckets a model may set."""
MAX_BUCKETS: Final = 100

CHECKSUM: Final = "checksum"
"""The only repository agent."""

_MD5: Final = re.compile("[0-9a-fA-F]{32}")

MAX_WARMUP_RUNS: Final = 1_000_000


def check_tensors(kind: str, specs: Sequence[TensorSpec], *, model: str) -> None:
    """Check the inputs or outputs.

    Args:
        kind: `input` or `output`.
        specs: from the file.
        model: for the message.
    """
    names: set[str] = set()
    for spec in specs:
        if not spec.name:
            raise ConfigError(f"model {kind} must specify 'name' for {model}")
        problem = _tensor_problem(spec)
        if problem:
            raise ConfigError(f"model {kind} '{spec.name}' {problem} for {model}")
        if spec.name in names:
            raise ConfigError(f"model {kind} '{spec.name}' is specified more than once for {model}")
        check_file_name(spec.label_filename, f"'label_filename' of model {kind} '{spec.name}' of {model}")
        names.add(spec.name)


def _tensor_problem(spec: TensorSpec) -> str:
    if not spec.datatype:
        return "must specify 'data_type'"
    if not spec.dims:
        return "must specify 'dims'"
    if len(spec.dims) > MAX_RANK or len(spec.model_dims) > MAX_RANK:
        return f"has more than {MAX_RANK} dims"
    if any(dim < 1 and dim != -1 for dim in spec.dims):
        return "dimension must be integer >= 1, or -1 to indicate a variable-size dimension"
    if spec.format != "FORMAT_NONE" and len(spec.dims) != 3:
        return "NHWC/NCHW require 3 dims"
    return "" if spec.reshape is None else _reshape_problem(spec.dims, spec.reshape)


def _reshape_problem(dims: Sequence[int], reshape: Sequence[int]) -> str:
    if any(dim < 1 and dim != -1 for dim in reshape):
        return "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension"
    if dims.count(-1) != reshape.count(-1):
        return "has different number of variable-size dimensions for dims and reshape"
    if _segments(dims) != _segments(reshape):
        return "has different size for dims and reshape"
    return ""


def _segments(dims: Sequence[int]) -> list[int]:
    """The number of elements of each run of fixed sizes, between the variable ones."""
    runs: list[int] = [1]
    for variable, run in groupby(dims, lambda dim: dim == -1):
        if variable:
            runs.extend(1 for _ in run)
        else:
            runs[-1] = math.prod(run)
    return runs


def check_batching(batching: DynamicBatching, max_batch_size: int | None, model: str) -> None:
    """Check dynamic batching.

    Args:
        batching: from the file.
        max_batch_size: None if completion will choose it.
        model: for the message.
    """
    if any(size <= 0 for size in batching.preferred_batch_sizes):
        raise ConfigError(f"dynamic batching preferred size must be positive for {model}")
    if max_batch_size is not None and any(size > max_batch_size for size in batching.preferred_batch_sizes):
        raise ConfigError(f"dynamic batching preferred size must be <= max batch size for {model}")
    levels = batching.priority_levels
    if levels and not 1 <= batching.default_priority_level <= levels:
        raise ConfigError(f"default priority level must be in range [1, {levels}] for {model}")
    if levels and not all(1 <= level <= levels for level in batching.priority_queue_policies):
        raise ConfigError(f"priority queue policy must have priority level in range [1, {levels}] for {model}")
    if batching.preserve_ordering:
        _check_ordering(batching, model)


def _check_ordering(batching: DynamicBatching, model: str) -> None:
    if batching.priority_levels > 1:
        raise ConfigError(f"Only one priority level is allowed when 'preserve_ordering' is true for {model}")
    if any(map(_delays, (batching.default_queue_policy, *batching.priority_queue_policies.values()))):
        raise ConfigError(
            f"Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {model}"
        )


def _delays(policy: QueuePolicy) -> bool:
    return policy.default_timeout > 0 and policy.timeout_action is TimeoutAction.DELAY


def check_groups(groups: Sequence[InstanceGroup], model: str) -> None:
    """Check the instance groups; placement checks whether the GPUs exist."""
    names: set[str] = set()
    for index, group in enumerate(groups):
        name = group.name or f"{model}_{index}"
        where = f"instance group {name} of model {model}"
        if group.kind in (Kind.CPU, Kind.MODEL) and group.gpus:
            raise ConfigError(f"{where} has kind {group.kind} but specifies one or more GPUs")
        if len(set(group.gpus)) != len(group.gpus):
            raise ConfigError(f"{where} specifies the same GPU more than once; raise its count instead")
        if not 1 <= group.count <= MAX_INSTANCES:
            raise ConfigError(f"{where} has count {group.count}; it must be between 1 and {MAX_INSTANCES}")
        if name in names:
            raise ConfigError(f"{where} is specified more than once")
        names.add(name)
        if group.rate_limiter is not None:
            _check_resources(group.rate_limiter, where)


def _check_resources(limiter: RateLimiter, where: str) -> None:
    known: set[tuple[str, bool]] = set()
    for resource in limiter.resources:
        if not resource.name:
            raise ConfigError(f"{where} has a rate_limiter resource without a name")
        if (resource.name, resource.everywhere) in known:
            raise ConfigError(f"{where} names rate_limiter resource '{resource.name}' more than once")
        known.add((resource.name, resource.everywhere))


def check_metrics(controls: Sequence[MetricControl], model: str) -> None:
    """Check which histograms get which buckets."""
    if len({control.family for control in controls}) != len(controls):
        raise ConfigError(f"model_metrics names a metric family more than once for {model}")
    for control in controls:
        if control.family != FIRST_RESPONSE:
            raise ConfigError(
                f"the buckets of metric family '{control.family}' cannot be set for {model}; only those of {FIRST_RESPONSE} can"
            )
        rising = all(low < high for low, high in itertools.pairwise(control.buckets))
        if not rising or not 1 <= len(control.buckets) <= MAX_BUCKETS:
            raise ConfigError(
                f"the buckets of {FIRST_RESPONSE} must be 1 to {MAX_BUCKETS} ascending numbers for {model}"
            )


def check_agents(agents: Sequence[RepositoryAgent], model: str) -> None:
    """Refuse agents that do not exist here, and parameters that the checksum agent does not have."""
    for agent in agents:
        if agent.name != CHECKSUM:
            raise ConfigError(
                f"repository agent '{agent.name}' of {model} is not supported: agents are native code of Triton; the only "
                f"one here is '{CHECKSUM}'. Do its work before the files reach the repository, and leave it out"
            )
        for key, value in agent.parameters.items():
            kind, _, name = key.partition(":")
            if kind != "MD5" or not name:
                raise ConfigError(
                    f"Unexpected parameter '{key}' of repository agent '{CHECKSUM}' for {model}; a key is MD5: and a file's path "
                    "below the model's folder"
                )
            check_file_name(name, f"file of repository agent '{CHECKSUM}' of {model}")
            if not _MD5.fullmatch(value):
                raise ConfigError(
                    f"parameter '{key}' of repository agent '{CHECKSUM}' for {model} is not 32 hex digits"
                )


def check_warmups(warmups: Sequence[Warmup], max_batch_size: int | None, model: str) -> None:
    """Check the warm-up requests on their own."""
    for warmup in warmups:
        where = f"model_warmup '{warmup.name}' of model {model}"
        if warmup.batch_size < 1:
            raise ConfigError(f"{where} must specify 'batch_size' >= 1")
        if max_batch_size is not None and warmup.batch_size > max(1, max_batch_size):
            raise ConfigError(f"{where} has batch_size {warmup.batch_size}; at most {max(1, max_batch_size)} fit")
        if warmup.count > MAX_WARMUP_RUNS:
            raise ConfigError(f"{where} has count {warmup.count}; at most {MAX_WARMUP_RUNS} are allowed")
        for name, tensor in warmup.inputs.items():
            if not tensor.datatype:
                raise ConfigError(f"{where} must specify 'data_type' of input '{name}'")
            if any(dim < 1 for dim in tensor.dims):
                raise ConfigError(
                    f"{where} expects all variable-size dimensions of input '{name}' to be specified, >= 1"
                )
            check_file_name(tensor.file, f"{where}, input_data_file of input '{name}'")


def check_warmup_inputs(warmups: Sequence[Warmup], inputs: Mapping[str, TensorSpec], model: str) -> None:
    """Check the warm-up requests against the model's inputs."""
    for warmup in warmups:
        where = f"model_warmup '{warmup.name}' of model {model}"
        missing = [name for name, spec in inputs.items() if name not in warmup.inputs and not spec.optional]
        if missing:
            raise ConfigError(f"{where} must specify input '{missing[0]}'")
        for name, tensor in warmup.inputs.items():
            if name not in inputs:
                raise ConfigError(
                    f"{where} specifies unexpected input '{name}', allowed inputs are: {', '.join(inputs)}"
                )
            spec = inputs[name]
            if tensor.datatype != spec.datatype:
                raise ConfigError(
                    f"{where} has datatype {tensor.datatype} for input '{name}', which is {spec.datatype}"
                )
            if not dims_agree(tensor.dims, spec.dims):
                raise ConfigError(
                    f"{where} has dims {list(tensor.dims)} for input '{name}', which expects {list(spec.dims)}"
                )


def dims_agree(dims: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether dims agree with the expected ones; -1 on either side agrees with any size."""
    return len(dims) == len(expected) and all(
        have == want or -1 in (have, want) for have, want in zip(dims, expected, strict=True)
    )


def check_file_name(name: str, where: str) -> None:
    """Check that a file named by the configuration lies inside the model's folder; "" is no file."""
    if name.startswith("/") or ".." in name.split("/") or "\\" in name:
        raise ConfigError(f"{where} is '{name}'; it must be a path inside the model's folder")
