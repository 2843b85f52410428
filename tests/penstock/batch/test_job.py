"""Any interleaving of reading, answers, duplicates, failures and kills gives each line exactly once, in order."""

from __future__ import annotations

import copy
import random

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batch.columns import Columns, read_map
from penstock.batch.job import ATTEMPTS, Job, Known, Plan
from penstock.batch.ordering import Watermark
from penstock.batch.records import Block, Mark, Record, bad, parse_id
from penstock.batch.rendering import error_line, json_lines
from protocol.errors import Code
from protocol.messages import Failure, InferReply
from protocol.model_config import ModelConfig
from protocol.tensors import from_array

CONFIG = ModelConfig.from_json(
    {
        "name": "m", "backend": "python", "max_batch_size": 8,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [1]}],
    }
)  # fmt: skip
POISON, FLAKY, BAD, BLANK = 13.0, 7.0, "bad", None


def blocks(rows: list[object], size: int, start: Mark) -> list[Block]:
    """The blocks of an input of these rows, from a mark on."""
    found = []
    for first in range(start.line, len(rows) + 1, size):
        after = min(first + size, len(rows) + 1)
        lines = [line for line in range(first, after) if rows[line - 1] is not BLANK]
        values = [bad("no number") if rows[line - 1] == BAD else {"X": rows[line - 1]} for line in lines]
        found.append(Block(Mark(first), Mark(after), lines, values, after > len(rows)))
    return found or [Block(start, start, [], [], True)]


class World:
    """A log, a topic of answers and a disk, which survive kills of the job."""

    def __init__(self, rows: list[object], plan: Plan, block: int, rng: random.Random) -> None:
        self.rows, self.plan, self.block, self.rng = rows, plan, block, rng
        self.log: list[Record] = []
        self.ran: list[int] = []
        self.todo: list[Record] = []
        self.answers: list[tuple[str, InferReply]] = []
        self.flaky: set[int] = set()
        self.output: list[bytes] = []
        self.saved = (Known(), Mark(), {}, 0, 0)
        self.now = 0.0
        self.start()

    def start(self) -> None:
        """Start, or start again from the journal and the log."""
        known, mark, low, place, written = copy.deepcopy(self.saved)
        del self.output[written:]
        known.logged |= {record.id for record in self.log[place:]}
        self.low = dict(low)
        self.next_answer = self.low.get(0, 0)
        self.job = Job(
            self.plan, Columns(CONFIG, read_map([], CONFIG)), json_lines, error_line, known, Watermark(self.low)
        )
        self.job.mark = mark
        self.blocks = blocks(self.rows, self.block, mark)
        self.sending: list[Record] = []
        self.journal = copy.deepcopy(known)

    def read(self) -> None:
        if self.blocks and self.job.room:
            self.sending += self.job.admit(self.blocks.pop(0), self.now)

    def send(self) -> None:
        for record in self.sending:
            self.log.append(record)
            self.todo.append(record)
        self.acked, self.sending = self.sending, []
        if self.rng.random() < 0.8:  # otherwise the job is killed before the acknowledgement, or it is late
            for record in self.acked:
                self.job.logged(record)

    def work(self) -> None:
        if not self.todo:
            return
        record = self.todo.pop(self.rng.randrange(len(self.todo)))
        array = record.tensors[0].array()
        self.ran += record.lines
        flaky = [line for line, row in zip(record.lines, array, strict=True) if FLAKY in row and line not in self.flaky]
        if flaky:
            self.flaky.update(flaky)
            reply = InferReply("m", "1", failure=Failure(Code.UNAVAILABLE, "not now"))
        elif POISON in array:
            reply = InferReply("m", "1", failure=Failure(Code.MODEL_FAILED, "thirteen"))
        else:
            outputs = np.array(record.lines, dtype="f4").reshape(-1, 1)
            reply = InferReply("m", "1", outputs=(from_array("Y", outputs),))
        self.answers.append((record.id, reply))
        if self.rng.random() < 0.2:
            self.answers.append((record.id, reply))

    def deliver(self) -> None:
        if self.next_answer < len(self.answers):
            name, reply = self.answers[self.next_answer]
            self.sending += self.job.answer(name, reply, (0, self.next_answer), self.now)
            self.next_answer += 1

    def write(self) -> None:
        for chunk in self.job.take_ready():
            self.output += chunk.output.splitlines(keepends=True)

    def save(self) -> None:
        if self.sending:
            return
        fresh = self.job.checkpoint()
        for name in ("done", "sent", "alone"):
            getattr(self.journal, name).update(getattr(fresh, name))
        self.journal.logged |= fresh.logged
        place = len(self.log) if all(record.id in self.known_ids() for record in self.log) else self.saved[3]
        self.saved = (copy.deepcopy(self.journal), self.job.mark, self.job.watermark.low(), place, len(self.output))

    def known_ids(self) -> set[str]:
        found = set(self.journal.logged)
        for record in self.log:
            spans = self.journal.alone if record.alone else self.journal.sent
            if not record.attempt and all(line in spans for line in record.lines):
                found.add(record.id)
        return found

    def pass_time(self) -> None:
        self.now += 1
        self.sending += self.job.due(self.now)

    def settle(self) -> None:
        for _ in range(10_000):
            if self.job.finished:
                return
            for action in (self.read, self.send, self.work, self.deliver, self.write, self.pass_time):
                action()
        raise AssertionError(f"it does not end: {self.job.in_flight} rows in flight")


rows = st.lists(
    st.one_of(
        st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=2),
        st.sampled_from([[POISON], [FLAKY], BAD, BLANK]),
    ),
    max_size=30,
)


@given(rows=rows, seed=st.integers(0, 2**32), size=st.integers(1, 5), block=st.integers(1, 7), unordered=st.booleans(),
       window=st.integers(1, 12))  # fmt: skip
def test_each_line_once_whatever_is_interrupted(
    rows: list[object], seed: int, size: int, block: int, unordered: bool, window: int
) -> None:
    rng = random.Random(seed)
    world = World(rows, Plan("j-1", size, window, unordered), block, rng)
    actions = [world.read, world.send, world.work, world.deliver, world.write, world.save, world.pass_time, world.start]
    for action in rng.choices(actions, [6, 6, 6, 6, 6, 3, 2, 1], k=120):
        action()
    world.settle()
    world.write()
    found = [orjson.loads(line) for line in world.output]
    lines = [line for line, row in enumerate(rows, 1) if row is not BLANK]
    if unordered:
        found.sort(key=lambda entry: entry["line"])
    assert [entry["line"] for entry in found] == lines
    for entry in found:
        row = rows[entry["line"] - 1]
        if row == BAD:
            assert entry["error"] == {"code": "INVALID_ARGUMENT", "message": "no number"}
        elif row == [POISON]:
            assert entry["error"]["code"] == "MODEL_FAILED"
        else:
            assert entry["outputs"] == {"Y": [float(entry["line"])]}
    ids = [record.id for record in world.log]
    assert len(ids) == len(set(ids)), "a record was published twice"


@given(rows=rows, size=st.integers(1, 5), block=st.integers(1, 7), seed=st.integers(0, 2**32))
def test_sending_without_waiting_and_collecting_later(rows: list[object], size: int, block: int, seed: int) -> None:
    rng = random.Random(seed)
    world = World(rows, Plan("j", size, 10, awaits=False), block, rng)
    kills = 5
    while not world.job.finished:
        world.read()
        for record in world.sending:
            world.log.append(record)
            world.todo.append(record)
            world.job.logged(record)
        world.sending = []
        if kills and rng.random() < 0.2:
            kills -= 1
            world.save()
            world.start()
    assert not world.output
    world.save()
    for _ in range(200):
        world.work()
    world.plan = Plan("j", size, 10)
    world.start()
    world.settle()
    world.write()
    assert [orjson.loads(line)["line"] for line in world.output] == [
        line for line, row in enumerate(rows, 1) if row is not BLANK
    ]
    ids = [record.id for record in world.log]
    assert len(ids) == len(set(ids))


@given(rows=st.lists(st.just([1.0]), min_size=40, max_size=60), window=st.integers(1, 10))
def test_what_is_in_flight_is_bounded(rows: list[object], window: int) -> None:
    world = World(rows, Plan("j", 2, window), 2, random.Random(0))
    for _ in range(50):
        world.read()
        world.send()
    assert world.job.in_flight <= window + 1
    assert len(world.log) <= window // 2 + 1


def test_a_failure_that_may_heal_is_tried_again_and_then_given_up() -> None:
    world = World([[1.0], [2.0]], Plan("j", 2, 10), 2, random.Random(0))
    world.read()
    sent = []
    for attempt in range(ATTEMPTS + 1):
        (record,) = world.sending
        sent.append(record.id)
        world.sending = []
        reply = InferReply("m", "1", failure=Failure(Code.UNAVAILABLE, "not now"))
        assert world.job.answer(record.id, reply, (0, attempt), world.now) == []
        if (due := world.job.next_due()) is not None:
            assert world.job.due(due - 0.01) == []
            world.now = due
            world.sending += world.job.due(due)
    assert sent == ["j-1..2", "j-1..2~1", "j-1..2~2", "j-1..2~3"]
    world.write()
    assert [orjson.loads(line)["error"]["code"] for line in world.output] == ["UNAVAILABLE", "UNAVAILABLE"]
    assert world.job.finished or not world.job.ended


@pytest.mark.parametrize(
    ("run", "name", "place"),
    [
        ("j", "j-17", (17, 17, 0)),
        ("j", "j-17..48", (17, 48, 0)),
        ("j-5", "j-5-3~2", (3, 3, 2)),
        ("j", "j-5-3", None),
        ("j", "k-3", None),
        ("j", "j-", None),
        ("j", "j-3..", None),
        ("j", "j-999999999999999999999", None),
        ("j", "", None),
    ],
)
def test_ids_say_their_lines(run: str, name: str, place: tuple[int, int, int] | None) -> None:
    found = parse_id(run, name)
    assert (found and (found.first, found.last, found.attempt)) == place
