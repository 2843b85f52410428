"""Indexes over a history: by ref, by number, by place in the log. Pure."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator
from typing import Final

from penstock.verify.observe.history import (
    CallEnd,
    DeadRecord,
    Execution,
    History,
    LogRecord,
    ObservedCall,
    StreamState,
)
from penstock.verify.plan.plan import Call, CallKind, FaultKind, Plan

ONCE: Final = frozenset({CallKind.PLAIN, CallKind.ASYNC, CallKind.DEADLINE, CallKind.CANCELLED, CallKind.DIRECT})
"""Kinds that are sent only once."""
DEATHS: Final = frozenset(
    {
        FaultKind.WORKER_KILL,
        FaultKind.MACHINE_KILL,
        FaultKind.CHILD_KILL,
        FaultKind.ZOMBIE,
        FaultKind.CUT_KILL,
        FaultKind.CLOCK_SKEW,
    }
)
ATTEMPTS: Final = 3
"""Deaths after which the fleet gives up a request."""


class Facts:
    """Indexes over a plan and a history.

    Attributes:
        calls: by number.
        executions: by number, then by run.
        losses: faults in which the store lost data.
    """

    def __init__(self, plan: Plan, history: History) -> None:
        self.history = history
        self.calls: dict[int, Call] = {call.number: call for call in plan.calls}
        self.executions: dict[int, dict[int, Execution]] = collections.defaultdict(dict)
        for run in history.runs:
            self.executions[run.number][run.run] = run
        self.losses = [fault for fault in history.faults if fault.loses and not fault.note]
        self._by_ref: dict[str, list[ObservedCall]] = collections.defaultdict(list)
        for seen in history.seen:
            if seen.ref:
                self._by_ref[seen.ref].append(seen)
        self._stored: dict[str, list[StreamState]] = collections.defaultdict(list)
        for stored in sorted(history.stored, key=lambda stored: stored.at):
            self._stored[stored.ref].append(stored)
        self._records = {(record.topic, record.partition, record.offset): record for record in history.logged}
        self._record_of = {record.ref: record for record in history.logged if record.ref}
        self._first: dict[str, float] = {}
        self._places: dict[str, list[tuple[str, int, int]]] = collections.defaultdict(list)
        for record in history.logged:
            self._places[record.ref].append((record.topic, record.partition, record.offset))
            self._first[record.ref] = min(record.at, self._first.get(record.ref, record.at))
        self._letters: dict[tuple[str, int, int], list[DeadRecord]] = collections.defaultdict(list)
        for letter in history.dead:
            self._letters[letter.topic, letter.partition, letter.offset].append(letter)
        self._committed: dict[str, int] = {}
        for sample in history.samples:
            for place, offset in sample.committed.items():
                self._committed[place] = max(offset, self._committed.get(place, 0))
        self._passed_done = {(p.topic, p.partition, p.offset) for p in history.passed if p.terminal or p.dead}
        self._garbage = {produced.ref for produced in history.produced if produced.kind is CallKind.GARBAGE}

    def by_ref(self, ref: str) -> list[ObservedCall]:
        """The observations of all callers of a request."""
        return self._by_ref.get(ref, [])

    def record(self, topic: str, partition: int, offset: int) -> LogRecord | None:
        """The record at a place in the log."""
        return self._records.get((topic, partition, offset))

    def record_of(self, ref: str) -> LogRecord | None:
        """The last record of a request."""
        return self._record_of.get(ref)

    def letters(self, topic: str, partition: int, offset: int) -> list[DeadRecord]:
        """Dead letters that name this place."""
        return self._letters.get((topic, partition, offset), [])

    def is_good(self, ref: str) -> bool:
        """Whether the model can answer the request."""
        record = self.record_of(ref)
        return ref not in self._garbage and (record is None or not self.is_poison(record.number))

    def is_poison(self, number: int | None) -> bool:
        """Whether the input is poison."""
        return number in self.calls and self.calls[number].kind is CallKind.POISON

    def given_up(self, ref: str) -> bool:
        """Whether a good request may be dead-lettered: its letter says `attempts`, and there were enough deaths for that."""
        deaths = sum(fault.kind in DEATHS and not fault.note for fault in self.history.faults)
        return deaths >= ATTEMPTS and any(
            letter.reason == "attempts"
            for place in self._places.get(ref, ())
            for letter in self._letters.get(place, ())
        )

    def committed_past(self, topic: str, partition: int, offset: int) -> bool:
        """Whether an offset above the record was ever committed."""
        return self._committed.get(f"{topic}/{partition}", 0) > offset

    def forgotten(self, ref: str) -> bool:
        """Whether the store lost data after the request arrived, so that a missing answer proves nothing."""
        return any(self._first.get(ref, 0.0) <= loss.ended for loss in self.losses)

    def ended(self, ref: str) -> bool:
        """Whether its stream ever had a terminal entry, or a caller got a result."""
        return any(stored.terminal for stored in self._stored.get(ref, ())) or any(
            seen.end in {CallEnd.ANSWER, CallEnd.ERROR} for seen in self.by_ref(ref)
        )

    def visible(self, ref: str) -> bool:
        """Whether an unfinished request is still part of the lag."""
        record = self.record_of(ref)
        return record is not None and not self.committed_past(record.topic, record.partition, record.offset)

    def unanswered_records(self) -> Iterator[LogRecord]:
        """Committed records that name a request and have neither an answer nor a dead letter."""
        for place, record in self._records.items():
            if not record.ref or place in self._passed_done or not self.committed_past(*place):
                continue
            if not self.ended(record.ref) and not self._letters.get(place):
                yield record

    def runs_seen(self) -> dict[str, set[int]]:
        """The executions whose answers were seen by callers or in the stream, by ref."""
        runs: dict[str, set[int]] = collections.defaultdict(set)
        for seen in self.history.seen:
            if seen.ref and seen.run is not None:
                runs[seen.ref].add(seen.run)
        for stored in self.history.stored:
            if stored.run is not None:
                runs[stored.ref].add(stored.run)
        return runs

    def refs_with_results(self) -> list[str]:
        """Requests whose result was seen."""
        return list(self.runs_seen())

    def terminals_undone(self) -> Iterator[tuple[str, str]]:
        """Streams whose terminal entry disappeared or changed without a new claim in between."""
        for ref, reads in self._stored.items():
            for before, after in itertools.pairwise(reads):
                if not before.terminal or after.claimed > before.claimed or self._lost_between(before.at, after.at):
                    continue
                if not after.terminal:
                    yield ref, "its stream had a terminal entry, and later none"
                elif before.error and after.error and before.error != after.error:
                    yield ref, f"its stream said {before.error}, and later {after.error}"
                elif (before.run is not None and after.error) or (before.error and after.run is not None):
                    yield ref, "its stream held both a result and an error, one after the other"

    def _lost_between(self, sooner: float, later: float) -> bool:
        return any(loss.began <= later and loss.ended >= sooner for loss in self.losses)

    def redelivered(self) -> list[int]:
        """See `judge.redelivered`."""
        copies = collections.Counter(record.number for record in self.history.logged)
        again = self._run_again_by_a_worker()
        return sorted(
            number
            for number, runs in self.executions.items()
            if len(runs) > 1 and copies[number] == 1 and number not in again and self._sent_once(number)
        )

    def _sent_once(self, number: int) -> bool:
        return number in self.calls and self.calls[number].kind in ONCE

    def _run_again_by_a_worker(self) -> set[int]:
        """Numbers that a worker may have run again on its own: they were in a batch with poison, or in a killed child."""
        spoilt = {(run.pid, run.at) for run in self.history.runs if self.is_poison(run.number)}
        for fault in self.history.faults:
            if fault.kind == FaultKind.CHILD_KILL:
                spoilt |= {(pid, self._last_batch(pid)) for pid in fault.pids}
        return {run.number for run in self.history.runs if (run.pid, run.at) in spoilt}

    def _last_batch(self, pid: int) -> float:
        return max((run.at for run in self.history.runs if run.pid == pid), default=0.0)
