"""How a repository's models would be served here: as by Triton, with a difference, or not at all, and why.

Without `inspect` no framework is imported and only the first bytes of a model file are read: what only the
whole file shows (whether the stated tensors exist) is then not checked.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigError, FleetError
from protocol.model_config import ModelConfig, QueuePolicy, Warmup, WarmupInput, pbtxt
from protocol.model_config.fields import Support, settings
from workers.backends import no_backend, pb_utils
from workers.backends.python_forms import foreign_form
from workers.checking.pb_usage import unsupported_uses
from workers.repository import model_file_check
from workers.repository.agents import run_agents
from workers.repository.completion import (
    DEFAULT_MAX_BATCH_SIZE,
    FILE_BACKEND,
    SILENT_BACKENDS,
    BackendMetadata,
    complete,
)
from workers.repository.folders import CONFIG_FILE, config_bytes
from workers.repository.labels import read_labels
from workers.repository.scan import scan_repositories
from workers.repository.version import ModelFolder, ModelVersion

Inspect = Callable[[ModelVersion], BackendMetadata | None]
"""A backend's `inspect`."""
LoadAttempt = Callable[[ModelVersion], None]
"""Loads a version whose configuration is complete, and runs its warm-ups."""
_PROBE: Final = "a request of zeros"


class Status(enum.StrEnum):
    """The outcome of a check."""

    NO_DIFFERENCE = "no difference found"
    DIFFERS = "differs"
    FAILS = "fails"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class CheckResult:
    """The result for one model.

    Attributes:
        model: its name.
        status: the outcome.
        versions: those that would be served.
        reasons: why it is refused or fails, or each difference from Triton; empty for `NO_DIFFERENCE`.
        warnings: what was skipped, such as folders that are not versions.
        verified: what was examined.
        digests: SHA-256 of the files and config.pbtxt by version, if they were computed.
        fields: what happens with each field that the configuration sets, one sentence each.
    """

    model: str
    status: Status
    versions: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    fields: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object; without `digests` and `fields` if there are none."""
        document = dataclasses.asdict(self) | {"status": self.status.value}
        return {name: value for name, value in document.items() if value or name not in ("digests", "fields")}


def check_repositories(
    repositories: Sequence[Path],
    backends: Collection[str],
    inspect: Inspect | None = None,
    attempt: LoadAttempt | None = None,
    *,
    digests: bool = False,
    explain: bool = False,
) -> Iterator[CheckResult]:
    """One result per model, by name, each as soon as it is known.

    Args:
        repositories: folders of model folders.
        backends: the names of the installed backends.
        inspect: reads a model file with its framework; None leaves the files unread.
        attempt: loads a model and sends it a request; None skips that.
        digests: whether to digest the versions' files.
        explain: fill in `CheckResult.fields`.

    Raises:
        ConfigError: a repository cannot be read at all.
    """
    for folder in scan_repositories(repositories, digests=digests):
        result = _check_model(folder, backends, inspect, attempt)
        yield dataclasses.replace(result, fields=tuple(explained(folder.path))) if explain else result


def _check_model(
    folder: ModelFolder, backends: Collection[str], inspect: Inspect | None, attempt: LoadAttempt | None
) -> CheckResult:
    numbers = tuple(version.version for version in folder.versions)
    if folder.reason:
        return CheckResult(folder.name, Status.REFUSED, (), (folder.reason,), folder.warnings)
    found: dict[Status, list[str]] = {Status.REFUSED: [], Status.FAILS: [], Status.DIFFERS: []}
    verified: set[str] = set()
    for version in folder.versions:
        problems = list(_problems(version, backends))
        found[Status.REFUSED] += [f"version {version.version}: {problem}" for problem in problems]
        if not problems:
            _check_version(version, inspect, attempt, found, verified)
    status = next((status for status, reasons in found.items() if reasons), Status.NO_DIFFERENCE)
    served = () if status is Status.REFUSED else numbers
    reasons = tuple(dict.fromkeys(found.get(status, ())))
    order = tuple([name for name in ("configuration", "model file", _PROBE) if name in verified])
    digests = {str(version.version): version.digest for version in folder.versions if version.digest}
    return CheckResult(folder.name, status, served, reasons, folder.warnings, order, digests)


def _check_version(
    version: ModelVersion,
    inspect: Inspect | None,
    attempt: LoadAttempt | None,
    found: dict[Status, list[str]],
    verified: set[str],
) -> None:
    """Add the findings on a version, and what was examined."""
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
    found[Status.DIFFERS] += [*_differences(version.config, completed), *_unsupported_uses(version)]
    if attempt is None or completed is None:
        return
    try:
        attempt(dataclasses.replace(version, config=probed(completed)))
        verified.add(_PROBE)
    except FleetError as error:
        found[Status.FAILS].append(f"version {version.version}: {error.message}")


def probed(config: ModelConfig) -> ModelConfig:
    """The configuration with one instance and one more warm-up, a request of zeros: one row, and size 1 for each variable
    dimension."""
    required = [spec for spec in config.inputs if not spec.optional] or config.inputs
    inputs = {spec.name: WarmupInput(spec.datatype, tuple([max(1, size) for size in spec.dims])) for spec in required}
    group = dataclasses.replace(config.instance_groups[0], count=1)
    return dataclasses.replace(
        config, instance_groups=(group,), warmups=(*config.warmups, Warmup(_PROBE, 1, 1, inputs))
    )


def _problems(version: ModelVersion, backends: Collection[str]) -> Iterator[str]:
    config = version.config
    if config.backend not in backends:
        yield no_backend(config.backend, backends)
    if config.backend in FILE_BACKEND.values() and not version.path.exists():
        yield f"there is no file '{version.path.relative_to(version.folder)}'"
    if (problem := model_file_check.load_problem(version.path, config.backend)) or (problem := _foreign_form(version)):
        yield problem
    for warmup in config.warmups:
        for tensor in warmup.inputs.values():
            if tensor.file and not (version.folder / "warmup" / tensor.file).is_file():
                yield f"there is no file 'warmup/{tensor.file}' for model_warmup '{warmup.name}'"
    try:
        run_agents(config, version.folder)
        read_labels(config, version.folder)
    except ConfigError as error:
        yield error.message


def _foreign_form(version: ModelVersion) -> str:
    if version.config.backend != "python" or not version.path.is_file():
        return ""
    return foreign_form(version.path.read_text(errors="replace"), str(version.path))


def _completed(config: ModelConfig, metadata: BackendMetadata | None, *, inspected: bool) -> ModelConfig | None:
    """The configuration as it would be served; None if that depends on the unread model file."""
    if inspected:
        return complete(config, metadata)
    whole = config.batch_size_stated and config.inputs and config.outputs
    return complete(config, None) if whole or config.backend in SILENT_BACKENDS else None


def explained(folder: Path) -> Iterator[str]:
    """What happens with each field that a model's config.pbtxt sets, also a refused one; nothing if it is not protobuf's text."""
    try:
        document = pbtxt.document_of(config_bytes(folder, pbtxt.MAX_BYTES + 1), CONFIG_FILE)
        chosen = list(settings(document))
    except (ConfigError, OSError):
        return
    for setting in chosen:
        field = setting.field
        yield f"{setting.path}: {field.does if field.support is Support.SUPPORTED else f'{field.support.value}, {field.why}'}"


def _differences(stated: ModelConfig, completed: ModelConfig | None) -> Iterator[str]:
    for setting in settings(stated.to_json()):
        if setting.field.support is Support.WITHOUT_EFFECT:
            yield f"'{setting.path}' has no effect: {setting.field.why}"
    if completed is not None and not (completed.inputs or completed.outputs):
        yield "it has neither inputs nor outputs: every answer is empty"
    if stated.default_model_filename.endswith(".pt2"):
        yield "the file is served as a torch.export program or an AOTInductor package; Triton takes only the latter"
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


def _unsupported_uses(version: ModelVersion) -> Iterator[str]:
    if version.config.backend == "python":
        source = version.path.read_text(errors="replace")
        for use in unsupported_uses(source, dir(pb_utils)):
            yield f"{version.path.name} uses {use}, which is not supported: it fails at that call"


def _heeds_more(policy: QueuePolicy) -> bool:
    return policy.allow_timeout_override and not policy.default_timeout
