"""The result of running a dead record again, and whether it matches the evidence. Pure."""

from __future__ import annotations

import dataclasses
import enum
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.dead.letters import ReadLetter
from protocol.errors import FleetError


class RunEnd(enum.StrEnum):
    """The kinds of results."""

    CRASHED = "crashed"
    HUNG = "hung"
    FAILED = "failed"
    REFUSED = "refused"
    SUCCEEDED = "succeeded"


class Stage(enum.StrEnum):
    """The last step of the child."""

    STARTING = "starting"
    LOADING = "loading the model"
    READING = "reading the request"
    RUNNING = "running the request"


@dataclasses.dataclass(frozen=True, slots=True)
class ReproductionResult:
    """The result of one run.

    Attributes:
        end: its kind.
        text: the message, or how the process ended.
        signal: the signal that ended it, as `SIGSEGV`, or "".
        digest: of the model version, in hex; "" if not requested.
        seconds: run time without loading.
        outputs: the answer's outputs, summarised.
        trace: the end of the process's standard error.
    """

    end: RunEnd
    text: str
    signal: str = ""
    digest: str = ""
    seconds: float = 0.0
    outputs: Sequence[Mapping[str, Any]] = ()
    trace: str = ""

    @property
    def reproduced(self) -> bool:
        """Whether the record failed again."""
        return self.end is not RunEnd.SUCCEEDED

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return dataclasses.asdict(self) | {"end": self.end.value, "reproduced": self.reproduced}


class ModelUnusable(FleetError):
    """The model could not be loaded, so there is no result."""


def result_of(said: Sequence[Mapping[str, Any]], exit_code: int | None, trace: str, limit: float) -> ReproductionResult:
    """The result of a child.

    Args:
        said: the lines of its report, in order: stages, then a result.
        exit_code: negative for a signal; None if it was killed at the time limit.
        trace: see `ReproductionResult`.
        limit: the time limit in seconds.

    Raises:
        ModelUnusable: it ended before the record was run.
    """
    facts = dict(pair for line in said for pair in line.items())
    stage = Stage(facts.get("stage", Stage.STARTING))
    if "unusable" in facts:
        raise ModelUnusable(f"the model cannot be run here: {facts['unusable']}")
    digest = facts.get("digest", "")
    if "end" in facts:
        return ReproductionResult(
            RunEnd(facts["end"]), facts["text"], "", digest, facts["seconds"], facts["outputs"], trace
        )
    name = _signal(exit_code)
    if exit_code is None:
        how = f"did not end within {limit:g} s"
    else:
        how = f"was ended by {name}" if name else f"ended with exit code {exit_code}"
    if stage is not Stage.RUNNING:
        raise ModelUnusable(f"the process {how} while {stage}, before the request was run\n{trace}".rstrip())
    end = RunEnd.HUNG if exit_code is None else RunEnd.CRASHED
    return ReproductionResult(end, f"the process {how} while {stage}", name, digest, 0.0, (), trace)


def _signal(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return ""
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def difference(outcome: ReproductionResult, letter: ReadLetter) -> str:
    """How the result differs from the evidence; "" if it does not, or the evidence has nothing to compare."""
    recorded = letter.model_digest or ""
    if recorded and outcome.digest and recorded != outcome.digest:
        return "the model's files are not those that were served when it died"
    if outcome.end is RunEnd.SUCCEEDED and letter.batch_ids:
        return f"it died in a batch of {len(letter.batch_ids) + 1} requests, and was run alone"
    if outcome.end is RunEnd.CRASHED and letter.signal and outcome.signal != letter.signal:
        return f"it died of {letter.signal}"
    return ""
