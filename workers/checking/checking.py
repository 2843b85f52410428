"""What would become of a repository's models here: served as Triton serves them, served with a difference, or refused, and why.

Without `inspect` no framework is loaded and of a model file only its first bytes are read: what only the whole file can say (do the
stated tensors exist?) is then not judged.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from protocol.errors import FleetError
from protocol.model_config import ModelConfig, QueuePolicy, Warmup, WarmupInput
from protocol.model_config.fields import Support, settings
from workers.backends import pb_utils
from workers.checking.pb_usage import not_offered
from workers.repository import contents
from workers.repository.completion import (
    DEFAULT_MAX_BATCH_SIZE,
    FILE_BACKEND,
    SILENT_BACKENDS,
    BackendMetadata,
    complete,
)
from workers.repository.repository import scan
from workers.repository.version import ModelFolder, ModelVersion

Inspect = Callable[[ModelVersion], BackendMetadata | None]
"""A backend's `inspect`: what the model file says of itself."""
Try = Callable[[ModelVersion], None]
"""Loads a version whose configuration is complete, and runs its warm-ups."""
_PROBE: Final = "a request of zeros"


class Status(enum.StrEnum):
    """The outcome of a check."""

    NO_DIFFERENCE = "no difference found"
    DIFFERS = "differs"
    FAILS = "fails"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one model.

    Attributes:
        model: its name.
        status: the outcome.
        versions: those that would be served.
        reasons: why it is refused or fails, or each difference to Triton; empty for `NO_DIFFERENCE`.
        warnings: what was passed over, such as folders that are no versions.
        verified: what the outcome rests on.
    """

    model: str
    status: Status
    versions: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The verdict as a JSON object."""
        return dataclasses.asdict(self) | {"status": self.status.value}


def check(
    repositories: Sequence[Path], backends: Collection[str], inspect: Inspect | None = None, attempt: Try | None = None
) -> Iterator[Verdict]:
    """One verdict per model, by name, each as soon as it is there.

    Args:
        repositories: folders of model folders.
        backends: the names of the backends that are there.
        inspect: reads a model file with its framework; None leaves the files unread.
        attempt: loads a model and lets it answer; None leaves that out.

    Raises:
        ConfigError: a repository cannot be read at all.
    """
    for folder in scan(repositories, digests=False):
        yield _verdict(folder, backends, inspect, attempt)


def _verdict(folder: ModelFolder, backends: Collection[str], inspect: Inspect | None, attempt: Try | None) -> Verdict:
    numbers = tuple(version.version for version in folder.versions)
    if folder.reason:
        return Verdict(folder.name, Status.REFUSED, (), (folder.reason,), folder.warnings)
    found: dict[Status, list[str]] = {Status.REFUSED: [], Status.FAILS: [], Status.DIFFERS: []}
    verified: set[str] = set()
    for version in folder.versions:
        problems = list(_problems(version, backends))
        found[Status.REFUSED] += [f"version {version.version}: {problem}" for problem in problems]
        if not problems:
            _judge(version, inspect, attempt, found, verified)
    status = next((status for status, reasons in found.items() if reasons), Status.NO_DIFFERENCE)
    served = () if status is Status.REFUSED else numbers
    reasons = tuple(dict.fromkeys(found.get(status, ())))
    order = tuple([name for name in ("configuration", "model file", _PROBE) if name in verified])
    return Verdict(folder.name, status, served, reasons, folder.warnings, order)


def _judge(
    version: ModelVersion,
    inspect: Inspect | None,
    attempt: Try | None,
    found: dict[Status, list[str]],
    verified: set[str],
) -> None:
    """Add what there is to say of a version, and on what that rests."""
    try:
        metadata = inspect(version) if inspect is not None else None
        completed = _completed(version.config, metadata, inspected=inspect is not None)
    except FleetError as error:
        found[Status.REFUSED].append(f"version {version.version}: {error.message}")
        return
    except ImportError as error:
        text = f"version {version.version}: backend '{version.config.backend}' lacks a package: {error}"
        found[Status.REFUSED].append(text)
        return
    verified.add("configuration")
    if metadata is not None:
        verified.add("model file")
    found[Status.DIFFERS] += [*_differences(version.config, completed), *_not_offered(version)]
    if attempt is None or completed is None:
        return
    try:
        attempt(dataclasses.replace(version, config=probed(completed)))
        verified.add(_PROBE)
    except FleetError as error:
        found[Status.FAILS].append(f"version {version.version}: {error.message}")


def probed(config: ModelConfig) -> ModelConfig:
    """The configuration with one instance, and a request of zeros among its warm-ups: one row, and one for each open size."""
    required = [spec for spec in config.inputs if not spec.optional] or config.inputs
    inputs = {spec.name: WarmupInput(spec.datatype, tuple([max(1, size) for size in spec.dims])) for spec in required}
    group = dataclasses.replace(config.instance_groups[0], count=1)
    return dataclasses.replace(
        config, instance_groups=(group,), warmups=(*config.warmups, Warmup(_PROBE, 1, 1, inputs))
    )


def _problems(version: ModelVersion, backends: Collection[str]) -> Iterator[str]:
    config = version.config
    if config.backend not in backends:
        yield f"there is no backend '{config.backend}'; there are: {', '.join(sorted(backends))}"
    if config.backend in FILE_BACKEND.values() and not version.path.exists():
        yield f"there is no file '{version.path.relative_to(version.folder)}'"
    if problem := contents.problem_of(version.path, config.backend):
        yield problem
    for warmup in config.warmups:
        for tensor in warmup.inputs.values():
            if tensor.file and not (version.folder / "warmup" / tensor.file).is_file():
                yield f"there is no file 'warmup/{tensor.file}' for model_warmup '{warmup.name}'"


def _completed(config: ModelConfig, metadata: BackendMetadata | None, *, inspected: bool) -> ModelConfig | None:
    """The configuration as it would be served; None where only the unread model file can say."""
    if inspected:
        return complete(config, metadata)
    whole = config.batch_size_stated and config.inputs and config.outputs
    return complete(config, None) if whole or config.backend in SILENT_BACKENDS else None


def _differences(stated: ModelConfig, completed: ModelConfig | None) -> Iterator[str]:
    for setting in settings(stated.to_json()):
        if setting.field.support is Support.WITHOUT_EFFECT:
            yield f"'{setting.path}' has no effect: {setting.field.why}"
    if completed is not None and not (completed.inputs or completed.outputs):
        yield "it has neither inputs nor outputs: every answer is empty"
    if stated.default_model_filename.endswith(".pt2"):
        yield "the file is loaded as a torch.export program; Triton takes .pt2 for a package of its torch_aoti backend"
    if stated.max_batch_size > 1 and stated.dynamic_batching is None and stated.backend in ("python", "pytorch"):
        yield f"dynamic batching is on, since max_batch_size is {stated.max_batch_size}; in Triton it is off for {stated.backend}"
    if not stated.batch_size_stated and (completed is None or completed.max_batch_size):
        rows = completed.max_batch_size if completed else f"{DEFAULT_MAX_BATCH_SIZE} (where the model can batch)"
        yield f"max_batch_size is not stated and becomes {rows}; Triton's backends take 4 or, where they cannot tell, 0"
    batching = stated.dynamic_batching
    if batching is not None and any(
        map(_heeds_more, (batching.default_queue_policy, *batching.priority_queue_policies.values()))
    ):
        yield "a request's own timeout counts where the policy allows it without a default timeout; Triton ignores it there"


def _not_offered(version: ModelVersion) -> Iterator[str]:
    if version.config.backend == "python":
        source = version.path.read_text(errors="replace")
        for use in not_offered(source, dir(pb_utils)):
            yield f"{version.path.name} uses {use}, which is not offered: it fails when it gets there"


def _heeds_more(policy: QueuePolicy) -> bool:
    return policy.allow_timeout_override and not policy.default_timeout
