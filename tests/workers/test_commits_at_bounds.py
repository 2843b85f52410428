"""Commits that fall due while another is in flight, and gaps on one partition of several."""

from __future__ import annotations

from protocol.transport.embedded.consumer import MemoryConsumer
from tests.workers.fleet import NAMES, until
from tests.workers.serving import bench
from tests.workers.test_commits import build, entries

TOPIC = NAMES.infer_topic("m", "1")


async def test_what_falls_due_while_a_commit_is_under_way_is_committed_after_it() -> None:
    commits, tracker, log = build()
    log.gate.clear()
    first, second = entries(tracker, 0, 1)
    commits.done([first])
    await until(lambda: log.asked == 1)
    commits.done([second])
    timer = commits._timer
    await until(lambda: commits._timer is not timer)
    log.gate.set()
    await until(lambda: log.committed == [{0: 1}, {0: 2}])
    await commits.close(flush=False)


async def test_a_gap_on_one_partition_is_committed_over_whatever_the_others_have() -> None:
    async with bench() as b:
        serving = await b.serve(partitions=2)
        (held,) = b.instances
        held.gate.clear()
        consumer = serving.intake._consumer
        assert isinstance(consumer, MemoryConsumer)
        await until(lambda: serving.intake._commits._timer is None)  # of the assignment
        b.broker.topics[TOPIC].logs[0].end = consumer._positions[0] = 2  # as behind the markers of a transaction
        futures = await b.caller.publish(b.caller.request(1), partition=1)
        await held.started()
        await until(lambda: b.broker.topics[TOPIC].groups[TOPIC].committed.get(0) == 2)
        held.gate.set()
        for future in futures:
            await future
