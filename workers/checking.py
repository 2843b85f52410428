"""What would become of a repository's models here: served as Triton serves them, served with a difference, or refused, and why.

Without `inspect` no framework is loaded and of a model file only its first bytes are read: what only the whole file can say (do the
stated tensors exist?) is then not judged.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from protocol.config_fields import Support, settings
from protocol.errors import FleetError
from protocol.model_config import ModelConfig, QueuePolicy
from workers import contents
from workers.completion import DEFAULT_MAX_BATCH_SIZE, FILE_BACKEND, SILENT_BACKENDS, BackendMetadata, complete
from workers.repository import ModelFolder, ModelVersion, scan

Inspect = Callable[[ModelVersion], BackendMetadata | None]
"""A backend's `inspect`: what the model file says of itself."""


class Status(enum.StrEnum):
    """The outcome of a check."""

    AS_IS = "as is"
    DIFFERS = "differs"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one model.

    Attributes:
        model: its name.
        status: the outcome.
        versions: those that would be served.
        reasons: why it is refused, or each difference to Triton; empty for `AS_IS`.
        warnings: what was passed over, such as folders that are no versions.
    """

    model: str
    status: Status
    versions: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The verdict as a JSON object."""
        return dataclasses.asdict(self) | {"status": self.status.value}


def check(repositories: Sequence[Path], backends: Collection[str], inspect: Inspect | None = None) -> list[Verdict]:
    """One verdict per model, by name.

    Args:
        repositories: folders of model folders.
        backends: the names of the backends that are there.
        inspect: reads a model file with its framework; None leaves the files unread.

    Raises:
        ConfigError: a repository cannot be read at all.
    """
    return [_verdict(folder, backends, inspect) for folder in scan(repositories, digests=False)]


def _verdict(folder: ModelFolder, backends: Collection[str], inspect: Inspect | None) -> Verdict:
    numbers = tuple(version.version for version in folder.versions)
    if folder.reason:
        return Verdict(folder.name, Status.REFUSED, (), (folder.reason,), folder.warnings)
    refused: list[str] = []
    differs: list[str] = []
    for version in folder.versions:
        problems = list(_problems(version, backends))
        refused += [f"version {version.version}: {problem}" for problem in problems]
        try:
            differs += [] if problems else _differences(version.config, _completed(version, inspect))
        except FleetError as error:
            refused.append(f"version {version.version}: {error.message}")
        except ImportError as error:
            refused.append(f"version {version.version}: backend '{version.config.backend}' lacks a package: {error}")
    if refused:
        return Verdict(folder.name, Status.REFUSED, (), tuple(dict.fromkeys(refused)), folder.warnings)
    status = Status.DIFFERS if differs else Status.AS_IS
    return Verdict(folder.name, status, numbers, tuple(dict.fromkeys(differs)), folder.warnings)


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


def _completed(version: ModelVersion, inspect: Inspect | None) -> ModelConfig | None:
    """The configuration as it would be served; None where only the unread model file can say."""
    config = version.config
    if inspect is not None:
        return complete(config, inspect(version))
    whole = config.batch_size_stated and config.inputs and config.outputs
    return complete(config, None) if whole or config.backend in SILENT_BACKENDS else None


def _differences(stated: ModelConfig, completed: ModelConfig | None) -> Iterator[str]:
    for setting in settings(stated.to_json()):
        if setting.field.support is Support.WITHOUT_EFFECT:
            yield f"'{setting.path}' has no effect: {setting.field.why}"
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


def _heeds_more(policy: QueuePolicy) -> bool:
    return policy.allow_timeout_override and not policy.default_timeout
