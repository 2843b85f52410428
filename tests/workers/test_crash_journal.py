import asyncio
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.fleet import until
from tests.workers.serving import bench
from tests.workers.test_supervisor import Rig, running
from workers.crash_journal import SLOT_BYTES, SLOTS, CrashJournal, CrashJournalReader

DYING = """
from workers.crash_journal import CrashJournal
journal = CrashJournal(int(os.environ["PENSTOCK_JOURNAL_FD"]))
if len(open({log!r}).read().split()) == 1:
    journal.open_slot().note(b"poison\\nmate")
    finished = journal.open_slot()
    finished.note(b"answered")
    finished.clear()
    os.kill(os.getpid(), signal.SIGKILL)
while True: signal.pause()
"""


def pair() -> tuple[CrashJournalReader, CrashJournal]:
    reader = CrashJournalReader()
    return reader, CrashJournal(os.dup(reader.descriptor))


def test_what_was_noted_and_not_cleared_is_found_once() -> None:
    reader, journal = pair()
    slots = [slot for _ in range(3) if (slot := journal.open_slot()) is not None]
    for number, slot in enumerate(slots):
        slot.note(b"a%d\nb%d" % (number, number))
    slots[1].clear()
    slots[2].note(b"c")
    assert reader.take_running() == ["a0", "b0", "c"]
    assert reader.take_running() == []
    reader.close()


def test_slots_are_few_and_used_again() -> None:
    reader, journal = pair()
    slots = [journal.open_slot() for _ in range(SLOTS)]
    assert journal.open_slot() is None
    assert slots[5] is not None
    slots[5].note(b"gone")
    journal.free_slot(slots[5])
    assert reader.take_running() == []
    again = journal.open_slot()
    assert again is not None
    assert again.number == slots[5].number
    reader.close()


@given(st.lists(st.text("abc-:~", min_size=1, max_size=600), min_size=1, max_size=300, unique=True))
def test_a_batch_too_large_for_its_slot_is_cut_between_two_names(names: list[str]) -> None:
    reader, journal = pair()
    slot, other = journal.open_slot(), journal.open_slot()
    assert slot is not None
    assert other is not None
    other.note(b"other")
    slot.note("\n".join(names).encode())
    found = reader.take_running()
    assert found[-1] == "other"
    assert found[:-1] == names[: len(found) - 1]
    left = names[len(found) - 1 :]
    assert not left or sum(len(name) + 1 for name in names[: len(found)]) > SLOT_BYTES - 8
    reader.close()


async def test_a_batch_is_in_the_journal_exactly_while_it_runs() -> None:
    reader, journal = pair()
    async with bench() as b:
        b.journal = journal
        await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        running_ones = [b.caller.request(0), b.caller.request(1)]
        futures = await b.caller.publish(*running_ones, b.caller.request(2, claimed=True))
        await instance.started()
        staged = await b.caller.publish(*[b.caller.request(n) for n in range(3, 11)])
        await until(lambda: b.serving[0].runner.running_rows > 3)
        assert sorted(reader.take_running()) == sorted(request.id for request in running_ones)
        instance.gate.set()
        await asyncio.gather(*futures, *staged)
        assert reader.take_running() == []
    reader.close()


async def test_the_supervisor_begins_an_attempt_for_what_its_dead_worker_was_running(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DYING.format(log=str(tmp_path / "starts")))
    async with running(rig):
        await until(lambda: len(rig.starts) == 2)
        states = await rig.transport.results.look(["poison", "mate", "answered"])
        assert [None if state is None else state.state for state in states] == ["running", "running", None]
        assert await rig.transport.results.start(["poison"], "w2", 300.0) == [2]
