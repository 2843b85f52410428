"""Whether rows may share a batch, tried while a model is loaded: what follows from each outcome, and what the log says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from workers.instances.batching_check import LIMIT, CheckFailed, RowsInfluence
from workers.instances.job import InstanceDied
from workers.instances.loaded import LoadedModel
from workers.instances.process.executor import ChildExecutor
from workers.instances.process.sticky import is_sticky
from workers.repository.completion import stated_limit
from workers.repository.row_influence import Verdict
from workers.repository.version import ModelVersion

_UNBATCHED: Final = (
    "served without batching, because its rows influence each other; to batch all the same, state max_batch_size in a "
    "config.pbtxt, or start with --no-check-batching"
)
_UNCHECKED: Final = (
    "made-up rows, run to see whether rows may share a batch, ended its process, or took too long; it is loaded again and batched "
    "without that check; to load it once, state max_batch_size in a config.pbtxt, or start with --no-check-batching"
)
_UNJUDGED: Final = (
    "batched, since its first dimensions may have any size; whether its rows are independent was not seen"
)
_RUNNING: Final = "made-up rows run, to see whether rows may share a batch (--no-check-batching leaves that out)"

log = structlog.get_logger(__name__)


class Reconfigurable(Protocol):
    """What a check needs of an instance's executor."""

    async def reconfigure(self, version: ModelVersion) -> bool:
        """Serve the version, which has another configuration and the same file; False if its model must be loaded anew for it."""


class RowChecks:
    """The checks of one worker's loads."""

    def __init__(self) -> None:
        self._running: set[tuple[str, int]] = set()

    def step(self, version: ModelVersion) -> str:
        """What a load does while the version's check runs; "" while it does not."""
        return _RUNNING if (version.model, version.version) in self._running else ""

    async def run(
        self,
        loaded: LoadedModel,
        executors: Sequence[Reconfigurable],
        check: Awaitable[Verdict],
        alone: Callable[[], ModelVersion],
    ) -> None:
        """Keep what the check shows in `loaded`: inputs that the model takes and, if rows influence each other, another version.

        Args:
            loaded: its version batches.
            executors: its own, of which the first is loaded.
            check: runs on the first.
            alone: the version with a complete configuration that does not batch.

        Raises:
            RowsInfluence: they do, and the model must be loaded anew.
            CheckFailed: see `in_child`.
        """
        version = loaded.version
        self._running.add(key := (version.model, version.version))
        try:
            verdict = await check
        finally:
            self._running.discard(key)
        loaded.shapes = verdict.shapes
        if verdict.unjudged:
            say = log.warning if verdict.unsteady else log.info
            say(_UNJUDGED, model=version.model, version=version.version, reason=verdict.unjudged)
        if not verdict.influence:
            return
        log.warning(_UNBATCHED, model=version.model, version=version.version, reason=verdict.influence)
        loaded.version = alone()
        for executor in executors:
            if not await executor.reconfigure(loaded.version):
                raise RowsInfluence(verdict)


async def in_child(executor: ChildExecutor, version: ModelVersion) -> Verdict:
    """Whether the rows of the instance may share a batch.

    Raises:
        CheckFailed: its process is gone: it ended, or was killed because it took too long; or CUDA is unusable in it.
    """
    limit = stated_limit(version.config.parameters, version.model) or LIMIT
    try:
        async with asyncio.timeout(None if limit == math.inf else limit):
            verdict = await executor.try_batching()
    except InstanceDied as died:
        raise CheckFailed(str(died)) from died
    except TimeoutError:
        executor.kill()
        raise CheckFailed(f"it took longer than {limit:g} s") from None
    if is_sticky(text := verdict.influence or verdict.unjudged):
        raise CheckFailed(text)
    return verdict


def warn_of_failed_check(version: ModelVersion, failed: CheckFailed) -> None:
    """Say that the version is loaded again without a check."""
    log.warning(_UNCHECKED, model=version.model, version=version.version, reason=str(failed))
