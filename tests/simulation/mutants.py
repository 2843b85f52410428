"""Bugs planted one by one into the real code, to see whether the simulation finds them: `python -m tests.simulation.mutants`.

Each is an attribute swapped for the length of a `with`. Patching is the point here, and nowhere else in the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from gateway.answers import Answers
from gateway.claims import Claims
from gateway.dispatcher import Dispatcher
from gateway.pending import Pending
from gateway.publisher import Publisher
from protocol.errors import Unavailable
from protocol.ports import Claimed, ClaimState, Outcome
from protocol.transport.fence import Fences
from tests.simulation.simulate import Report, simulate
from workers.burial import Burial
from workers.cancellations import Cancellations
from workers.commits import Commits
from workers.deadletters import DeadLetters
from workers.emission import Emission
from workers.execution import ThreadExecutor
from workers.intake import Intake
from workers.offsets import OffsetTracker
from workers.patience import Patience
from workers.pipeline import Pipeline
from workers.runner import Runner
from workers.scheduling.dynamic import DynamicBatcher
from workers.scheduling.types import Item

TRIES = 400
"""Schedules in which a planted bug must show."""

Bug = Callable[[], contextlib.AbstractContextManager[None]]
MUTANTS: dict[str, Bug] = {}


def bug(name: str, owner: Any, attribute: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Names a function that gets the right method and returns the wrong one."""

    def register(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @contextlib.contextmanager
        def plant() -> Iterator[None]:
            right = owner.__dict__[attribute]
            setattr(owner, attribute, make(right))
            try:
                yield
            finally:
                setattr(owner, attribute, right)

        MUTANTS[name] = plant
        return make

    return register


def planted(plant: Bug) -> contextlib.AbstractContextManager[None]:
    """The bug is in the code for as long as this lasts."""
    return plant()


# --- the worker ------------------------------------------------------------------------------------------------------


@bug("committed before the answer is written", Intake, "_queue")
def _(right: Any) -> Any:
    def queue(self: Any, entries: Any) -> None:
        self._commits.done(entries)
        right(self, entries)

    return queue


@bug("committed up to the highest that is done", OffsetTracker, "done")
def _(right: Any) -> Any:
    def done(self: Any, partition: Any, offset: int, token: int) -> None:
        table = self._tables.get(partition)
        if table is not None and table.token == token:
            for lower in [other for other in table.open if other < offset]:
                right(self, partition, lower, token)
        right(self, partition, offset, token)

    return done


@bug("acknowledgements of an old epoch count", OffsetTracker, "assign")
def _(right: Any) -> Any:
    def assign(self: Any, partition: Any, epoch: int, committed: int) -> Any:
        table = self._tables.get(partition)
        if table is None:
            return right(self, partition, epoch, committed)
        table.epoch, table.owned, table.committed = epoch, True, committed
        self._moved.add(partition)
        return tuple(table.open)

    return assign


@bug("fetching goes on where the last member stopped, not where it committed", OffsetTracker, "assign")
def _(right: Any) -> Any:
    def assign(self: Any, partition: Any, epoch: int, committed: int) -> Any:
        kept = right(self, partition, epoch, committed)
        table = self._tables[partition]
        if epoch > 1:
            table.end += 1
            self._moved.add(partition)
        return kept

    return assign


@bug("a store that is full is taken for one that has written", Patience, "call")
def _(right: Any) -> Any:
    async def call(self: Any, what: str, make: Any) -> Any:
        if what != "finish":
            return await right(self, what, make)
        try:
            return await make()
        except Unavailable:
            return [Outcome.WRITTEN] * 512

    return call


@bug("an answer that could not be written is forgotten", Emission, "_send")
def _(right: Any) -> Any:
    async def send(self: Any, answers: Any, entries: Any) -> None:
        try:
            await self._context.results.finish(answers)
        except Unavailable:
            self.pending -= len(answers)
            return
        await right(self, answers, entries)

    return send


@bug("answers are swapped within a batch", Emission, "put")
def _(right: Any) -> Any:
    def put(self: Any, answers: Any, entries: Any) -> None:
        if len(answers) > 1:
            one, other = answers[0], answers[1]
            answers = [
                dataclasses.replace(one, payload=other.payload),
                dataclasses.replace(other, payload=one.payload),
                *answers[2:],
            ]
        right(self, answers, entries)

    return put


@bug("the deadline is not looked at", Item, "late")
def _(right: Any) -> Any:
    return lambda self, now: False


@bug("an instance runs what is late", ThreadExecutor, "_run")
def _(right: Any) -> Any:
    def run(self: Any, job: Any) -> None:
        job.not_after, job.withdrawn = float("inf"), False
        right(self, job)

    return run


@bug("a cancellation of what waits is ignored", Runner, "cancel")
def _(right: Any) -> Any:
    return lambda self, ref: ref in self._entries


@bug("a cancellation that comes before its request is forgotten", Cancellations, "covers")
def _(right: Any) -> Any:
    return lambda self, ref, published: False


@bug("a repetition that waited for the first is dropped", Runner, "_drop")
def _(right: Any) -> Any:
    def drop(self: Any, entry: Any) -> None:
        entry.followers = None
        right(self, entry)

    return drop


@bug("whatever the store knows of is taken for answered", Intake, "_skip_answered")
def _(right: Any) -> Any:
    async def skip(self: Any, entries: Any) -> Any:
        states = await self._context.patience.call(
            "look", lambda: self._context.results.look([entry.ref for entry in entries])
        )
        self.settled([entry for entry, state in zip(entries, states, strict=True) if state is not None])
        return [entry for entry, state in zip(entries, states, strict=True) if state is None]

    return skip


@bug("what waits of a lost partition stays, and its offsets with it", Intake, "revoked")
def _(right: Any) -> Any:
    return lambda self, partitions: None


@bug("a refused commit is taken for done and never repeated", Commits, "flush")
def _(right: Any) -> Any:
    async def flush(self: Any) -> None:
        positions = self._tracker.commits()
        self._tracker.committed(positions)
        with contextlib.suppress(Unavailable):
            if positions and self.consumer is not None:
                await self.consumer.commit(positions)

    return flush


@bug("records that cannot be read are dropped, not buried", DeadLetters, "bury")
def _(right: Any) -> Any:
    async def bury(self: Any, *arguments: Any, **options: Any) -> None:
        return None

    return bury


@bug("a record that cannot be read stops its partition", Burial, "unreadable")
def _(right: Any) -> Any:
    return lambda self, hopeless, fetched: None


@bug("a full worker no longer wakes up", Runner, "room")
def _(right: Any) -> Any:
    def room(self: Any) -> int:
        if self._context.patience.failures:
            return 0
        return right(self)  # type: ignore[no-any-return]

    return room


@bug("a batch that fails takes its innocent requests with it", Pipeline, "_troubled")
def _(right: Any) -> Any:
    def troubled(self: Any, job: Any, error: BaseException) -> None:
        self._emit(job, *self._conclusions.encode(job, self._conclusions.failures(job, error)))

    return troubled


@bug("the batcher forgets one of two that came together", DynamicBatcher, "add")
def _(right: Any) -> Any:
    def add(self: Any, item: Any, now: float) -> Any:
        if item.enqueued and self.depth == 3:
            return None
        return right(self, item, now)

    return add


# --- the store -------------------------------------------------------------------------------------------------------


@bug("the last terminal wins", Fences, "_over")
def _(right: Any) -> Any:
    return lambda self, ref, stream, now: False


@bug("fences expire at once", Fences, "_write")
def _(right: Any) -> Any:
    def write(self: Any, answer: Any, stream: Any, now: float, result_ttl: float, certain: bool) -> None:
        right(self, dataclasses.replace(answer, ttl=0.01), stream, now, 0.01, certain)

    return write


@bug("a claim clears a final answer", Fences, "claim")
def _(right: Any) -> Any:
    def claim(self: Any, claim: Any, now: float) -> Any:
        stream = self.streams.get(claim.ref)
        if stream is not None and stream.payload is not None:
            self._remove(claim.ref)
        return right(self, claim, now)

    return claim


# --- the gateway -----------------------------------------------------------------------------------------------------


@bug("nobody is looked up whose wake-up was lost", Pending, "sweep")
def _(right: Any) -> Any:
    return lambda self, now: []


@bug("a large answer's pointer is not followed, nor anything swept", Dispatcher, "_take")
def _(right: Any) -> Any:
    return lambda self, ref, state: 0


@bug("a failed publish is answered to nobody", Publisher, "_fail")
def _(right: Any) -> Any:
    def fail(self: Any, group: Any, error: Any) -> None:
        for _, place in group.places:
            if not place.done():
                place.set_exception(error)

    return fail


@bug("only the first who waits for a key is answered", Pending, "feed")
def _(right: Any) -> Any:
    def feed(self: Any, wakes: Any) -> Any:
        deliveries, pointers = right(self, wakes)
        first: dict[str, Any] = {}
        for call, payload in deliveries:
            first.setdefault(call.ref, (call, payload))
        return list(first.values()), pointers

    return feed


@bug("answers reach whoever waited longest", Answers, "read")
def _(right: Any) -> Any:
    last: list[bytes] = []

    def read(self: Any, call: Any, payload: bytes) -> Any:
        last.append(payload)
        return right(self, call, last[-2] if len(last) % 7 == 2 else payload)

    return read


@bug("whoever attaches publishes too late or never", Claims, "_take")
def _(right: Any) -> Any:
    async def take(self: Any, call: Any, request: Any, fingerprint: str, record: Any) -> bool:
        claimed: Claimed = await self.claim(request, fingerprint)
        if claimed.state is ClaimState.FRESH:
            await self.publish(call.ref, call.topic, record)
        return True

    return take


@bug("a retriable end is kept for ever", Fences, "claim")
def _(right: Any) -> Any:
    def claim(self: Any, claim: Any, now: float) -> Any:
        stream = self.streams.get(claim.ref)
        if stream is not None:
            stream.retriable = False
        return right(self, claim, now)

    return claim


@bug("a call whose gateway gave up counts for ever", Answers, "_leave")
def _(right: Any) -> Any:
    return lambda self, call: None


@bug("deadlines are not answered", Pending, "expire")
def _(right: Any) -> Any:
    return lambda self, now: []


# --- counting --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Verdict:
    """Whether a planted bug was found, and by what."""

    name: str
    report: Report | None
    tried: int
    crashed: str = ""

    @property
    def found(self) -> bool:
        return self.report is not None or bool(self.crashed)

    def __str__(self) -> str:
        if self.report is None:
            return f"{'found  ' if self.found else 'MISSED '} {self.name}: {self.crashed or f'{self.tried} schedules'}"
        return f"found   {self.name}: schedule {self.report.seed}: {self.report.violations[0]}"


def hunt(name: str, tries: int = TRIES) -> Verdict:
    """Plant the bug and simulate until a promise breaks."""
    with planted(MUTANTS[name]):
        for seed in range(tries):
            report = simulate(seed)
            if report.violations:
                return Verdict(name, report, seed + 1)
    return Verdict(name, None, tries)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description="Hunt for planted bugs.")
    parser.add_argument("names", nargs="*", help="only those whose name has this in it")
    parser.add_argument("--tries", type=int, default=TRIES)
    options = parser.parse_args()
    chosen = [name for name in MUTANTS if not options.names or any(part in name for part in options.names)]
    started, found = time.monotonic(), 0
    for name in chosen:
        verdict = hunt(name, options.tries)
        found += verdict.found
        print(verdict, flush=True)
    print(f"{found} of {len(chosen)} planted bugs were found in {time.monotonic() - started:.0f} s")
    return 0 if found == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
