"""An outside observer's view of the log, the store and the instances, and the promises broken. It asks no part of the fleet."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from protocol.codec import decode_reply, payload_bytes
from protocol.errors import Code
from protocol.ports import Cancel, Claim, FinishOutcome, Record, Terminal
from tests.simulation.answers import Answers, wants_answer
from tests.simulation.kafka import Topic
from tests.simulation.letters import Letters, name_of
from tests.simulation.loop import Process, VirtualLoop
from workers.instances.job import Entry


@dataclasses.dataclass(frozen=True)
class Violation:
    """One broken promise."""

    promise: str
    what: str
    at: float

    def __str__(self) -> str:
        return f"{self.promise} at {self.at:.3f} s: {self.what}"


class History:
    """Notes and judges.

    Attributes:
        violations: of the promises.
        settled: refs for which the store ever got a terminal answer.
        terminals: number of terminal answers written, by ref.
        runs: how often each ref was run.
        letters: the dead letters.
        answers: on the topic of results.
        gone: refs whose record was deleted before it had a terminal answer.
        losses: how often the store lost data.
        successes, failures: answers that the store wrote since it last lost data, the counts that its totals should have.
        tails_lost: how often only its last second was lost, so that a stream may exist without its terminal answer.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.violations: list[Violation] = []
        self.settled: set[str] = set()
        self.terminals: dict[str, int] = {}
        self.runs: dict[str, int] = {}
        self.letters = Letters(self.broken)
        self.answers = Answers(self.broken)
        self.gone: set[str] = set()
        self.losses = 0
        self.tails_lost = 0
        self.successes = self.failures = 0
        self.events: list[str] = []
        self._ended: dict[str, Terminal] = {}
        self._cancels: dict[str, list[tuple[Process, float, float]]] = {}
        self._digest = hashlib.sha256()

    def note(self, *what: object) -> None:
        """Something happened."""
        text = f"{self.loop.now:9.4f} {' '.join(map(str, what))}"
        self.events.append(text)
        self._digest.update(text.encode())

    @property
    def digest(self) -> str:
        """Of everything that happened, in order."""
        return self._digest.hexdigest()

    def broken(self, promise: str, what: str) -> None:
        self.violations.append(Violation(promise, what, self.loop.now))
        self.note("VIOLATION", promise, what)

    # --- the store ---

    def finished(self, answer: Terminal, outcome: FinishOutcome) -> None:
        name = answer.ref
        self.note("finish", name, outcome.name, answer.retriable, len(answer.payload))
        self._judge_cancelled(answer)
        self.settled.add(name)
        if outcome is FinishOutcome.WRITTEN:
            if name in self._ended:
                self.broken("I2", f"{name} has a second terminal")
            self._ended[name] = answer
            self.terminals[name] = self.terminals.get(name, 0) + 1
            if decode_reply(payload_bytes(answer.payload)).failure is None:
                self.successes += 1
            else:
                self.failures += 1
            if not answer.retriable:
                self.letters.answered(name)

    def _judge_cancelled(self, answer: Terminal) -> None:
        """A worker cancels only runs that some cancellation covers. A gateway writes no stamp: it notifies workers afterwards."""
        if not answer.retriable or not answer.accepted:
            return
        failure = decode_reply(answer.payload).failure
        if failure is None or failure.code is not Code.CANCELLED:
            return
        if not any(answer.accepted <= until for _, _, until in self._cancels.get(answer.ref, ())):
            self.broken(
                "I6", f"{answer.ref} is cancelled, but no caller cancelled the run accepted at {answer.accepted:.6f}"
            )

    def fresh(self, claim: Claim) -> None:
        self.note("claim", claim.ref)
        former = self._ended.pop(claim.ref, None)
        if former is not None and not former.retriable:
            self.broken("I2", f"the final answer of {claim.ref} was cleared by a claim")

    def lost(self, partly: bool) -> None:
        self.note("the store lost data", "its tail" if partly else "all")
        self.losses += 1
        self.tails_lost += partly
        self.successes = self.failures = 0
        self._ended.clear()
        self.answers.store_lost_data()

    def released(self, refs: Sequence[str]) -> None:
        """A worker allows that these run again."""
        self.note("release", *refs)
        for name in refs:
            former = self._ended.pop(name, None)
            if former is not None and not former.retriable:
                self.broken("I2", f"the final answer of {name} was released")

    def cancelled(self, process: Process, cancels: Sequence[Cancel]) -> None:
        """A worker's process received them."""
        self.note("cancel", process, *[f"{cancel.ref} until {cancel.until:.6f}" for cancel in cancels])
        for cancel in cancels:
            self._cancels.setdefault(cancel.ref, []).append((process, self.loop.now, cancel.until))

    # --- the log ---

    def committed(self, topic: Topic, partition: int, before: int, offset: int) -> None:
        self.note("commit", topic.name, partition, offset)
        log = topic.logs[partition]
        if offset > log.end:
            self.broken("I3", f"{topic.name}/{partition}: {offset} is committed, the log ends at {log.end}")
        for record in log.slice(before, max(0, offset - before)):
            if record.offset < offset and not self.is_complete(record):
                self.broken(
                    "I3", f"{topic.name}/{partition}/{record.offset} is committed without an end: {name_of(record)}"
                )
            elif record.offset < offset and wants_answer(record) and not self.answers.has(name_of(record)):
                self.broken(
                    "I3", f"{topic.name}/{partition}/{record.offset} is committed without an answer on its topic"
                )

    def is_complete(self, record: Record) -> bool:
        return name_of(record) in self.settled or self.letters.has(record)

    def appended(self, records: Sequence[Record]) -> None:
        """These were appended to the log."""
        self.letters.appended(records)
        self.answers.appended(records)

    def deleted(self, records: Sequence[Record], unknowable: bool) -> None:
        """These are no longer in the log; if their topic was deleted too, no process can know that they were unread."""
        # By the newest claim: a key may have ended before, and run again.
        without_end = [r for r in records if name_of(r) not in self._ended and not self.letters.has(r)]
        self.note("deleted", len(records), "without an end", len(without_end), "unknowably" if unknowable else "")
        self.gone.update(map(name_of, without_end))
        if not unknowable:
            self.letters.unread += without_end

    def judge_losses(self) -> None:
        """At the end: every record deleted unread is in a note."""
        for record in self.letters.unread:
            if not self.is_complete(record) and not self.letters.told_lost(record):
                place = f"{record.topic}/{record.partition}/{record.offset}"
                self.broken("I12", f"{place} was deleted unread without a note")

    # --- the instances ---

    def began(self, refs: Sequence[str], runner: str) -> None:
        """The store got this worker's note that it begins them."""
        for name in refs:
            self.letters.begun.setdefault(name, set()).add(runner)

    def ended(self, process: Process, code: int) -> None:
        """A worker's process ended."""
        self.note("ended", process, code)
        if code:
            self.letters.died.add(process.name)

    def taken_for_dead(self, process: Process) -> None:
        """Stopped, or removed from its group: its running requests move away and count as begun."""
        self.letters.died.add(process.name)

    def child_died(self, entries: Sequence[Entry]) -> None:
        """An instance's process died with these in it."""
        for entry in entries:
            self.letters.deaths[entry.ref] = self.letters.deaths.get(entry.ref, 0) + 1

    def ran(self, process: Process, entries: Sequence[Entry], clock: float) -> None:
        """A batch starts on an instance of this worker, at `clock` on its clock."""
        self.note("run", process, *[entry.ref for entry in entries])
        for entry in entries:
            self.runs[entry.ref] = self.runs.get(entry.ref, 0) + 1
            if entry.deadline is not None and clock >= entry.deadline:
                self.broken("I6", f"{entry.ref} starts {clock - entry.deadline:.3f} s after its deadline")
            for heard_by, at, until in self._cancels.get(entry.ref, ()):
                if heard_by is process and at < self.loop.now and entry.payload.accepted <= until:
                    self.broken(
                        "I6", f"{entry.ref} starts on {process} {self.loop.now - at:.3f} s after its cancellation"
                    )
