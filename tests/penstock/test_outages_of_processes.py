"""Which process of a gateway speaks about a server that is away."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.processes.outages import Outages, tell_parent
from protocol.runtime.outages import Server, Watch, log

KAFKA = Server("Kafka", "10.0.0.7:9092", "--kafka", ("aiokafka",))


def test_the_first_that_saw_it_speaks_and_the_last_says_that_it_is_over() -> None:
    outages = Outages()

    assert outages.written(1, "Kafka", away=True)
    assert not outages.written(0, "Kafka", away=True)
    assert outages.written(0, "Redis", away=True)
    assert outages.written(1, "Kafka", away=True)
    assert not outages.written(1, "Kafka", away=False)
    assert outages.written(0, "Kafka", away=True)
    assert outages.written(0, "Kafka", away=False)


def test_another_speaks_after_the_death_of_the_first() -> None:
    outages = Outages()
    outages.written(0, "Kafka", away=True)
    outages.written(1, "Kafka", away=True)
    outages.died(0)

    assert outages.written(1, "Kafka", away=True)
    assert outages.written(1, "Kafka", away=False)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_while_somebody_sees_an_outage_exactly_one_speaks(events: list[tuple[int, bool]]) -> None:
    outages, seeing = Outages(), set[int]()
    for number, away in events:
        written = outages.written(number, "Kafka", away=away)
        (seeing.add if away else seeing.discard)(number)
        assert written or seeing
        if seeing:
            copies = [outages.written(each, "Kafka", away=True) for each in sorted(seeing)]
            assert copies.count(True) == 1


@pytest.fixture
def sent() -> Iterator[list[tuple[str, object]]]:
    messages: list[tuple[str, object]] = []
    tell_parent(lambda kind, value: messages.append((kind, value)))
    yield messages
    log.handlers.clear()
    log.propagate = True


async def test_a_process_sends_its_parent_what_it_would_write(sent: list[tuple[str, object]]) -> None:
    answers = iter(["refused", "refused", "refused", ""])

    async def why() -> str:
        return next(answers)

    async def sleep(_: float) -> None:
        pass

    watch = Watch(KAFKA, "calls are refused", why, sleep)
    watch.open()
    watch.suspect()
    assert watch._check is not None
    await watch._check

    assert sent == [
        ("outage", ("Kafka", True, logging.ERROR, KAFKA.line(0.0, "refused", "calls are refused"))),
        ("outage", ("Kafka", False, logging.WARNING, KAFKA.back(0.0))),
    ]
