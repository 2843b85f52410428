import asyncio
from collections.abc import Mapping

from protocol.errors import Unavailable
from protocol.messages import InferRequest
from tests.workers.fleet import until
from workers.instances.job import Entry
from workers.intake.commits import AGAIN, Commits
from workers.intake.offsets import OffsetTracker


class Log:
    """A consumer that only commits; it may refuse, and may be slow."""

    def __init__(self) -> None:
        self.committed: list[dict[int, int]] = []
        self.refuse = 0
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, offsets: Mapping[int, int]) -> None:
        self.asked += 1
        await self.gate.wait()
        if self.refuse:
            self.refuse -= 1
            raise Unavailable("rebalancing")
        self.committed.append(dict(offsets))


def build(again: float = AGAIN) -> tuple[Commits, OffsetTracker[int], Log]:
    tracker: OffsetTracker[int] = OffsetTracker()
    tracker.assign(0, 1, 0)
    commits, log = Commits("topic", tracker, again), Log()
    commits.consumer = log  # type: ignore[assignment]  # only commit is used
    return commits, tracker, log


def entries(tracker: OffsetTracker[int], *offsets: int) -> list[Entry]:
    request = InferRequest("i", "m", "1", ())
    tokens = [tracker.add(0, offset) for offset in offsets]
    return [Entry("i", 1, "", request, 0.0, offset=o, token=t or 0) for o, t in zip(offsets, tokens, strict=True)]


async def test_what_is_done_is_committed_once_and_only_up_to_the_first_gap() -> None:
    commits, tracker, log = build()
    first, second, third = entries(tracker, 0, 1, 2)
    commits.done([first, third])
    await until(lambda: log.committed == [{0: 1}])
    commits.done([second])
    await until(lambda: log.committed == [{0: 1}, {0: 3}])
    await commits.close(flush=True)
    assert len(log.committed) == 2


async def test_a_refused_commit_is_repeated() -> None:
    commits, tracker, log = build()
    log.refuse = 2
    commits.done(entries(tracker, 0))
    await until(lambda: log.committed == [{0: 1}])
    await commits.close(flush=True)


async def test_closing_commits_what_is_done_and_abandoning_does_not() -> None:
    commits, tracker, log = build()
    commits.done(entries(tracker, 0))
    await commits.close(flush=True)
    assert log.committed == [{0: 1}]
    commits, tracker, log = build()
    commits.done(entries(tracker, 0))
    commits.abandon()
    await commits.close(flush=False)
    assert log.committed == []


async def test_commits_never_overtake_each_other() -> None:
    commits, tracker, log = build()
    log.gate.clear()
    first, second = entries(tracker, 0, 1)
    commits.done([first])
    await until(lambda: log.asked == 1)
    task = commits._task
    commits.done([second])
    await until(lambda: commits._timer is not None)
    assert commits._task is task
    log.gate.set()
    await until(lambda: log.committed == [{0: 1}, {0: 2}])
    await commits.close(flush=False)


async def test_positions_of_an_idle_model_are_committed_again_and_never_above_what_is_done() -> None:
    commits, tracker, log = build(again=0.01)
    first, second = entries(tracker, 0, 1)
    tracker.assign(1, 1, 7)
    commits.done([first])
    await until(lambda: log.committed[-2:] == [{0: 1, 1: 7}] * 2)
    log.refuse = 1
    tracker.revoke(1)
    await until(lambda: log.committed[-1] == {0: 1})
    commits.done([second])
    await until(lambda: log.committed[-1] == {0: 2})
    commits.abandon()
    count = log.asked
    await commits.close(flush=False)
    assert log.asked == count
