"""What an error means: the kind of failure, the answer to its caller, and the dead letter that keeps it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.dead_letter import DeadLetter, DeadReason, class_name, signal_name
from protocol.errors import Code, FleetError, described
from protocol.messages import Failure
from workers.failures.bisection import Cause, Culprit
from workers.instances.job import Entry, InstanceDied, ModelRaised
from workers.instances.process.sticky import is_sticky

MEMORY_CLASSES: Final = frozenset({"MemoryError", "OutOfMemoryError"})
"""Names of exception classes, as the worker imports no framework: Python's, and torch's on every device."""
MEMORY_TEXTS: Final = (
    "out of memory",
    "OutOfMemoryError",
    "MemoryError",
    "can't allocate memory",
    "Failed to allocate memory for requested buffer",
    "std::bad_alloc",
)
"""What CUDA, torch, NumPy, onnxruntime's arena and C++ say, wherever it was wrapped."""


def cause_of(error: BaseException) -> Cause:
    """The kind of failure behind a run's error. One that spoils its process (`is_sticky`) counts as a crash."""
    if isinstance(error, InstanceDied):
        return Cause.HANG if error.hung else Cause.CRASH
    text = described(error)
    if is_sticky(text):
        return Cause.CRASH
    kinds = error.kinds if isinstance(error, ModelRaised) else [kind.__name__ for kind in type(error).__mro__]
    named = not MEMORY_CLASSES.isdisjoint(kinds)
    return Cause.MEMORY if named or any(words in text for words in MEMORY_TEXTS) else Cause.FAILED


def poison_letter(culprit: Culprit[Entry], error: BaseException, batch_ids: Sequence[str]) -> DeadLetter:
    """The dead letter of a request that killed its instances."""
    entry = culprit.item
    assert entry.record is not None
    text = described(error)
    number = error.signal if isinstance(error, InstanceDied) else None
    reason = DeadReason.HUNG if culprit.cause is Cause.HANG else DeadReason.POISON
    return DeadLetter(entry.record, reason, text, class_name(error), number, culprit.deaths, _others(entry, batch_ids))


def poison_failure(culprit: Culprit[Entry], error: BaseException) -> Failure:
    """The answer to the sender of that request."""
    if culprit.cause is Cause.HANG:
        how = "did not end in time"
    elif isinstance(error, InstanceDied) and error.signal is not None:
        how = f"died with {signal_name(error.signal)}{_at(error)}"
    elif isinstance(error, InstanceDied) and error.exit_code is not None:
        how = f"exited with code {error.exit_code}{_at(error)}"
    elif isinstance(error, FleetError) and not isinstance(error, InstanceDied):
        how = f"raised '{error.message.partition(chr(10))[0]}', which no process survives,"
    else:
        how = "died"
    return Failure(
        Code.MODEL_FAILED,
        f"the model instance {how} on this request, alone and in {culprit.deaths} runs in all; it is in the dead letters",
    )


def _at(error: InstanceDied) -> str:
    return f" ({error.place})" if error.place else ""


def attempts_exhausted(entry: Entry, attempts: int, batch_ids: Sequence[str]) -> tuple[DeadLetter, Failure]:
    """The dead letter of a request that was begun too often, and the answer to its sender."""
    assert entry.record is not None
    text = f"the request was begun {attempts} times, and no worker survived to answer it"
    name = class_name(InstanceDied(""))
    letter = DeadLetter(entry.record, DeadReason.ATTEMPTS, text, name, None, attempts, _others(entry, batch_ids))
    return letter, Failure(Code.MODEL_FAILED, f"{text}; it is in the dead letters")


def _others(entry: Entry, batch_ids: Sequence[str]) -> list[str]:
    return [other for other in batch_ids if other != entry.payload.id]
