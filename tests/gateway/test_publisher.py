from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from gateway.calls.pending import Call
from gateway.calls.publisher import IN_FLIGHT, Publisher
from gateway.metrics import GatewayMetrics
from protocol.errors import FleetError, Unavailable
from protocol.ports import OutRecord, Published
from protocol.runtime.repeats import BURST
from tests.gateway.turns import turns


class SlowBus:
    """The publishing half of a bus; each group waits until the test lets it land."""

    immediate = None

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[bytes], asyncio.Future[Published]]] = []

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        landed: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self.groups.append((topic, [record.value for record in records], landed))
        return await landed

    def land(self, index: int) -> None:
        self.groups[index][2].set_result(Published(self.groups[index][0], 0, 100 * index, 0.0))

    def sizes(self) -> list[int]:
        return [len(values) for _, values, _ in self.groups]


class Site:
    def __init__(self) -> None:
        self.bus = SlowBus()
        self.failed: list[FleetError] = []
        self.publisher = Publisher(
            self.bus,  # type: ignore[arg-type]  # the half that a publisher uses
            GatewayMetrics(CollectorRegistry()),
            lambda _, error: self.failed.append(error),
        )

    def send(self, count: int, topic: str = "t") -> None:
        for _ in range(count):
            call = Call("ref", topic, "m", "1", "", 0, 1e12, 0.0, lambda _: None)
            self.publisher.enqueue(topic, OutRecord(b"x"), call)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    yield made
    while any(not landed.done() for _, _, landed in made.bus.groups):
        for index, (_, _, landed) in enumerate(made.bus.groups):
            if not landed.done():
                made.bus.land(index)
        await turns()
    await made.publisher.close()


async def test_what_comes_in_one_turn_is_one_group(site: Site) -> None:
    site.send(3)
    await turns()

    assert site.bus.sizes() == [3]


async def test_while_enough_is_on_its_way_the_next_group_grows_and_goes_with_the_next_acknowledgement(
    site: Site,
) -> None:
    for _ in range(IN_FLIGHT):
        site.send(1)
        await turns()
    for _ in range(5):
        site.send(2)
        await turns()
    assert site.bus.sizes() == [1] * IN_FLIGHT

    site.bus.land(0)
    await turns()

    assert site.bus.sizes() == [*[1] * IN_FLIGHT, 10]


async def test_topics_do_not_hold_each_other_back(site: Site) -> None:
    for _ in range(IN_FLIGHT + 1):
        site.send(1)
        await turns()
    site.send(1, "other")
    await turns()

    assert [topic for topic, _, _ in site.bus.groups] == ["t"] * IN_FLIGHT + ["other"]


async def test_a_failure_lets_the_held_group_go_and_is_told_to_its_own_calls_only(site: Site) -> None:
    for size in (1, 1, 4):
        site.send(size)
        await turns()

    site.bus.groups[0][2].set_exception(Unavailable("no leader"))
    await turns()

    assert [error.message for error in site.failed] == ["the request was not accepted: no leader"]
    assert site.bus.sizes() == [1, 1, 4]


async def test_places_are_told_per_record_and_large_groups_are_split_in_order(site: Site) -> None:
    big = OutRecord(bytes(600_000))
    places = [asyncio.create_task(site.publisher.publish_and_wait("t", big)) for _ in range(3)]
    await turns()
    assert site.bus.sizes() == [1] * IN_FLIGHT

    for index in range(3):
        site.bus.land(index)
        await turns()

    assert [await place for place in places] == [(0, 0), (0, 100), (0, 200)]


async def test_close_waits_for_what_was_held_back(site: Site) -> None:
    for _ in range(IN_FLIGHT + 1):
        site.send(1)
        await turns()
    closing = asyncio.create_task(site.publisher.close())
    for index in range(IN_FLIGHT + 1):
        await turns()
        assert not closing.done()
        site.bus.land(index)
    await closing

    assert len(site.bus.groups) == IN_FLIGHT + 1


async def test_a_disk_that_stays_full_does_not_fill_with_log_lines(site: Site) -> None:
    with capture_logs() as lines:
        for index in range(3 * BURST):
            site.send(1)
            await turns()
            site.bus.groups[index][2].set_exception(Unavailable("database or disk is full"))
            await turns()

    assert len(site.failed) == 3 * BURST
    assert BURST <= len(lines) < 2 * BURST
    assert {line["event"] for line in lines} == {"publish failed"}
