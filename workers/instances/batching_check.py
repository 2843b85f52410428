"""Tries whether rows may share a batch, where nobody has said so: what `row_influence` judges, run on a loaded instance."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Final

from protocol.errors import described
from protocol.example_shapes import Shapes
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig
from protocol.tensors import Tensor
from workers.backends.assembly import WrongRows
from workers.backends.base import Instance
from workers.repository.row_influence import Verdict, influence, made_up_rows

SLOW: Final = 2.0
"""Seconds: if a row takes longer, the load does not wait for three more."""

LONGEST: Final = 300
"""Characters of a model's error that are shown."""

LIMIT: Final = 60.0
"""Seconds that a check may take in a process of its own, as any batch may, unless the model states `max_execution_ms`."""

_UNSTEADY: Final = (
    "its answers to the same row differ from run to run; if that is not meant, it was exported in training mode: call model.eval() "
    "and export it again"
)
_Answer = tuple[Tensor, ...]


class RowsInfluence(Exception):
    """Rows of the model influence each other, so it must be loaded again as one that does not batch.

    Args:
        verdict: says how.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.influence)
        self.verdict = verdict


class CheckFailed(Exception):
    """The check took too long, or ended the instance's process: the model must be loaded again without it."""


class _Refused(Exception):
    """The model does not take the made-up inputs."""


class _OnlyTogether(Exception):
    """The model refuses a row alone, and takes several."""


def try_batching(instance: Instance, config: ModelConfig, slow: float = SLOW) -> Verdict:
    """Compare one run of several rows with runs of one row; on the instance's own thread. If it refuses sizes, try others.

    Args:
        instance: loaded.
        config: complete, of a model that batches.
        slow: seconds; a model whose first row takes longer, or that refuses for longer, is not tried further.
    """
    unjudged = "its rows are too large"
    started = time.monotonic()
    for rows in made_up_rows(config):
        try:
            return dataclasses.replace(_judge(instance, rows, slow), shapes=_shapes(rows[:1]))
        except _OnlyTogether as error:
            return Verdict(f"a row alone is refused, and {len(rows)} rows are not ({error})", shapes=_shapes(rows))
        except _Refused as refusal:
            unjudged = f"it refuses made-up inputs ({refusal})"
            if time.monotonic() - started > slow:
                break
    return Verdict(unjudged=unjudged)


def _judge(instance: Instance, rows: Sequence[InferRequest], slow: float) -> Verdict:
    started = time.monotonic()
    try:
        first = _first(instance, rows)
        if time.monotonic() - started > slow:
            return Verdict(unjudged=f"a row takes longer than {slow:.0f} s")
        alone = [first, *[_alone(instance, row) for row in rows[1:]]]
    except WrongRows as error:
        return Verdict(error.message)
    found = _together(instance, rows, alone)
    if found and influence([first], [_alone(instance, rows[0])]):
        return Verdict(unjudged=_UNSTEADY, unsteady=True)
    return Verdict(found)


def _shapes(rows: Sequence[InferRequest]) -> Shapes:
    """Of the inputs of so many rows."""
    return {tensor.name: (len(rows), *tensor.shape[1:]) for tensor in rows[0].inputs}


def _first(instance: Instance, rows: Sequence[InferRequest]) -> _Answer:
    """The answer to the first row alone.

    Raises:
        _OnlyTogether: the model refuses it, and takes all rows together.
        _Refused: it refuses both.
    """
    try:
        return _alone(instance, rows[0])
    except _Refused as refusal:
        _run(instance, rows)
        raise _OnlyTogether(str(refusal)) from refusal


def _together(instance: Instance, rows: Sequence[InferRequest], alone: Sequence[_Answer]) -> str:
    """How the rows influence each other."""
    try:
        return influence(alone, _run(instance, rows))
    except _Refused as error:
        return f"{len(rows)} rows cannot run together, only each alone ({error})"
    except WrongRows as error:
        return error.message


def _alone(instance: Instance, row: InferRequest) -> _Answer:
    return _run(instance, [row])[0]


def _run(instance: Instance, requests: Sequence[InferRequest]) -> list[_Answer]:
    """The answers to one batch.

    Raises:
        WrongRows: an output's first dimension is not the batch.
        _Refused: the model failed in any other way.
    """
    try:
        raw = instance.run(instance.prepare(requests))
        keep = getattr(instance, "keep", None)
        outcomes = instance.split(requests, raw if keep is None else keep(raw))
    except WrongRows:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # SystemExit of a model must not end this process
        raise _Refused(described(error).partition("\n")[0][:LONGEST]) from error
    answers = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise _Refused(outcome.message)
        answers.append(tuple(outcome))
    return answers
