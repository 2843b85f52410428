"""The outbox on a bus that fails as it is told; no sockets, no sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client import outbox as outbox_module
from penstock.client.outbox import GROUP_BYTES, GROUP_RECORDS, OVERHEAD, Delivery, Outbox
from protocol.errors import Cancelled, FleetError, NotFound, TooLarge, Unavailable
from protocol.ports import OutRecord, Published


class Bus:
    """Appends groups to one partition; `troubles` are raised first, one per group. While `open` is cleared it waits."""

    def __init__(self, *troubles: Exception | None, most: int = 10**9) -> None:
        self.troubles = list(troubles)
        self.most = most
        self.log: list[bytes] = []
        self.groups: list[int] = []
        self.ensured: list[tuple[str, int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        self.ensured.append((topic, partitions))
        return partitions

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        await self.open.wait()
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is not None:
            raise trouble
        if len(records) > self.most:
            raise TooLarge("too many")
        first = len(self.log)
        self.log += [record.value for record in records]
        self.groups.append(len(records))
        return Published(topic, 0, first, 0.0)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE", 0.0)


def made(bus: Bus, told: list[Delivery], timeout: float = 60.0) -> Outbox:
    return Outbox(bus, 4, timeout, told.append)  # type: ignore[arg-type]  # the part of a bus that it uses


def put(outbox: Outbox, number: int, size: int = 10, topic: str = "t") -> bool:
    return outbox.add(topic, OutRecord(b"%d" % number), str(number), size)


async def test_the_records_of_a_turn_are_one_group_and_each_is_told_its_place() -> None:
    bus, told = Bus(), list[Delivery]()
    outbox = made(bus, told)
    for number in range(5):
        assert not put(outbox, number)
    assert outbox.buffered == 5 * (10 + OVERHEAD)
    await outbox.wait_below(0)

    assert told == [Delivery(str(number), "t", 0, number) for number in range(5)]
    assert (bus.groups, bus.ensured, outbox.delivered) == ([5], [("t", 4)], 5)
    await outbox.close(None)


async def test_a_group_is_bounded_in_records_and_bytes() -> None:
    bus, told = Bus(), list[Delivery]()
    outbox = made(bus, told)
    filled = [put(outbox, number) for number in range(2 * GROUP_RECORDS)]
    for number in range(3):
        put(outbox, number, GROUP_BYTES // 2 + 1, "large")
    await outbox.close(None)

    assert [index for index, full in enumerate(filled) if full] == [GROUP_RECORDS - 1, 2 * GROUP_RECORDS - 1]
    assert sorted(bus.groups) == [1, 1, 1, GROUP_RECORDS, GROUP_RECORDS]


async def test_a_broker_that_is_away_is_waited_for_and_a_deleted_topic_is_made_again() -> None:
    bus, told = Bus(Unavailable("away"), NotFound("no topic"), Unavailable("away")), list[Delivery]()
    outbox = made(bus, told)
    put(outbox, 1)
    await outbox.close(None)

    assert told == [Delivery("1", "t", 0, 0)]
    assert len(bus.ensured) == 2


async def test_after_the_delivery_timeout_a_record_has_failed() -> None:
    bus, told = Bus(*[Unavailable("away")] * 3), list[Delivery]()
    outbox = made(bus, told, timeout=-1.0)
    put(outbox, 1)
    await outbox.close(None)

    (delivery,) = told
    assert (delivery.partition, delivery.offset) == (-1, -1)
    assert isinstance(delivery.error, Unavailable)
    assert (outbox.delivered, outbox.failed, outbox.buffered) == (0, 1, 0)


async def test_a_topic_that_takes_less_than_a_group_gets_it_in_parts() -> None:
    bus, told = Bus(most=3), list[Delivery]()
    outbox = made(bus, told)
    for number in range(10):
        put(outbox, number)
    await outbox.close(None)

    assert sorted(int(delivery.id) for delivery in told if delivery.error is None) == list(range(10))
    assert all(bus.log[delivery.offset] == delivery.id.encode() for delivery in told)


async def test_a_record_that_is_too_large_fails_alone() -> None:
    bus, told = Bus(TooLarge("x")), list[Delivery]()
    outbox = made(bus, told)
    put(outbox, 1)
    await outbox.close(None)

    assert isinstance(told[0].error, TooLarge)


async def test_a_bug_below_is_told_as_a_failure() -> None:
    bus, told = Bus(ValueError("a bug")), list[Delivery]()
    outbox = made(bus, told)
    put(outbox, 1)
    await outbox.close(None)

    assert told[0].error is not None
    assert "a bug" in told[0].error.message


async def test_a_listener_that_raises_misses_nothing() -> None:
    told: list[str] = []

    def listen(delivery: Delivery) -> None:
        told.append(delivery.id)
        raise ValueError("a caller's bug")

    outbox = Outbox(Bus(), 4, 60.0, listen)  # type: ignore[arg-type]
    put(outbox, 1)
    put(outbox, 2)
    await outbox.close(None)

    assert told == ["1", "2"]


async def test_closing_in_haste_tells_what_is_left_once() -> None:
    bus, told = Bus(), list[Delivery]()
    bus.open.clear()
    outbox = made(bus, told)
    for number in range(20 * GROUP_RECORDS):
        put(outbox, number)
    await outbox.close(0.01)

    assert sorted(int(delivery.id) for delivery in told) == list(range(20 * GROUP_RECORDS))
    assert all(isinstance(delivery.error, Cancelled) for delivery in told)
    assert outbox.buffered == 0


async def test_closing_at_once_tells_groups_whose_tasks_never_began() -> None:
    bus, told = Bus(), list[Delivery]()
    outbox = made(bus, told)
    put(outbox, 1)
    closing = asyncio.get_running_loop().create_task(outbox.close(None))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert [delivery.id for delivery in told] == ["1"]
    assert outbox.buffered == 0


TROUBLES = st.none() | st.sampled_from(
    [Unavailable("away"), NotFound("x"), TooLarge("x"), FleetError("x"), ValueError("x")]
)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1, 400_000]), st.booleans()), max_size=60),
    st.lists(TROUBLES, max_size=30),
    st.sampled_from([1, 2, 1000]),
    st.sampled_from([-1.0, 60.0]),
)
def test_every_record_is_told_once_and_what_is_told_as_delivered_is_in_the_log(
    records: list[tuple[str, int, bool]], troubles: list[Exception | None], most: int, timeout: float
) -> None:
    async def run() -> None:
        bus, told = Bus(*troubles, most=most), list[Delivery]()
        outbox = made(bus, told, timeout)
        for number, (topic, size, pause) in enumerate(records):
            put(outbox, number, size, topic)
            if pause:
                await asyncio.sleep(0)
        await outbox.close(None)
        assert sorted(int(delivery.id) for delivery in told) == list(range(len(records)))
        assert all(bus.log[one.offset] == one.id.encode() for one in told if one.error is None)
        assert outbox.buffered == 0
        assert outbox.delivered + outbox.failed == len(records)

    asyncio.run(run())
