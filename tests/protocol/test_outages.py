"""Lines about a server that is away: which are held, what comes in their place, and when. Time is simulated."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.runtime import outages
from protocol.runtime.outages import CONFIRMED_BY, ECHO, MAX_HELD, Hush, Server, Watch, system_error
from protocol.runtime.repeats import EVERY, EVERY_LATER, next_report

KAFKA = Server("Kafka", "10.0.0.7:9092", "--kafka", ("aiokafka",))
LIBRARY, OURS = logging.getLogger("aiokafka.conn"), logging.getLogger("workers.outage_test")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What a handler with the filter writes."""
    written: list[str] = []

    class Writer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())

    handler = Writer()
    handler.addFilter(Hush(handler))
    root = logging.getLogger()
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)
    assert not outages._holds


class Away:
    """A server that answers again at the given check, and a sleep that only counts."""

    def __init__(self, checks: int) -> None:
        self.checks = checks

    async def why(self) -> str:
        self.checks -= 1
        return "connection refused" if self.checks >= 0 else ""

    async def sleep(self, seconds: float) -> None:
        LIBRARY.error("Unable connect to node with id 1")
        OURS.warning("a heartbeat at 10.0.0.7:9092 failed")
        await asyncio.sleep(0)


async def ended(watch: Watch) -> None:
    assert watch._check is not None
    await asyncio.wait([watch._check])
    await asyncio.sleep(0)  # its callback
    assert watch._check is None


async def followed(away: Away) -> None:
    watch = Watch(KAFKA, "calls are refused", away.why, away.sleep)
    watch.open()
    watch.suspect()
    LIBRARY.error("the sign")
    watch.suspect()
    OURS.warning("about something else")
    await ended(watch)
    watch.close()


async def test_an_outage_is_told_first_and_last_in_place_of_the_library(lines: list[str]) -> None:
    await followed(Away(5))

    assert lines == [
        "about something else",
        KAFKA.line(0.0, "connection refused", "calls are refused"),
        "Kafka at 10.0.0.7:9092 answers again, after 0 s",
    ]


@pytest.mark.parametrize("failed", range(CONFIRMED_BY))
async def test_what_was_held_is_written_if_the_server_answers(lines: list[str], failed: int) -> None:
    await followed(Away(failed))

    assert lines == ["about something else", "the sign"]


async def test_a_process_whose_worker_tells_it_says_nothing(lines: list[str]) -> None:
    away = Away(5)
    watch = Watch(KAFKA, "", away.why, away.sleep)
    watch.open()
    watch.suspect()
    await ended(watch)
    assert lines == []


async def test_a_start_that_waits_says_so_and_one_that_does_not_writes_what_was_held(lines: list[str]) -> None:
    watch = Watch(KAFKA, "calls are refused", Away(0).why, sleep=lambda _: asyncio.sleep(0.01))
    async with watch.starting(30, lambda line: line):
        LIBRARY.error("connection refused")
        await asyncio.sleep(0.025)
    assert "does not answer (connection refused): nothing starts before it does; given up after 30 s" in lines[0]
    assert lines[-1] == "Kafka at 10.0.0.7:9092 answers, after 0 s"
    lines.clear()

    async with Watch(KAFKA, "", Away(0).why).starting(30, lambda line: line):
        LIBRARY.error("one of two brokers")
    assert lines == ["one of two brokers"]


async def test_a_command_that_says_it_itself_logs_nothing_at_start(lines: list[str]) -> None:
    watch = Watch(KAFKA, "", Away(0).why, sleep=lambda _: asyncio.sleep(0.01), start="")
    async with watch.starting(30, lambda line: line):
        LIBRARY.error("connection refused")
        await asyncio.sleep(0.025)
    assert lines == []


async def test_a_start_that_fails_leaves_its_error_alone(lines: list[str]) -> None:
    async def fail() -> None:
        async with Watch(KAFKA, "", Away(0).why).starting(30, lambda line: line):
            LIBRARY.error("connection refused")
            raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        await fail()
    assert lines == []


async def test_tracebacks_and_more_than_can_be_held_are_written(lines: list[str]) -> None:
    with outages._holding(KAFKA) as hold:
        try:
            raise ValueError("a bug")
        except ValueError:
            LIBRARY.exception("a bug while Kafka is away")
        for _ in range(MAX_HELD + 1):
            LIBRARY.error("x")
        hold.drop()
    assert lines == ["a bug while Kafka is away", "x"]


@pytest.mark.parametrize(
    ("name", "message", "is_about"),
    [
        ("aiokafka", "anything", True),
        ("aiokafkaesque", "anything", False),
        ("workers.retry", {"event": "failed", "error": "topic x at 10.0.0.7:9092: it took too long"}, True),
        ("workers.retry", {"event": "failed", "error": "topic x at 10.0.0.8:9092: it took too long"}, False),
        ("workers.retry", {"event": "failed at 10.0.0.7:9092", "exc_info": True}, False),
        (outages.log.name, "Kafka at 10.0.0.7:9092 does not answer", False),
    ],
)
def test_which_lines_are_about_a_server(name: str, message: object, is_about: bool) -> None:
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, None, None)
    assert KAFKA.concerns(record) is is_about


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Unable connect to \"h:9092\": [Errno 111] Connect call failed ('127.0.0.1', 9092)", "connection refused"),
        ("Unable connect to node with id 1: [Errno 113] No route", "no route to host"),
        ("[Errno -2] Name or service not known", "name or service not known"),
        ("cannot be reached: Error 111 connecting to 127.0.0.1:6379. Connection refused.", "connection refused"),
        ("Redis is loading", ""),
        (
            "Error 1 connecting to localhost:6380. [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed",
            "",
        ),
    ],
)
def test_the_system_s_error_is_found(text: str, error: str) -> None:
    assert system_error(text) == error


@given(st.floats(0, 1e6))
def test_the_next_line_is_due_soon_and_never_now(elapsed: float) -> None:
    assert 0 < next_report(elapsed) - elapsed <= (EVERY if elapsed < 60 else EVERY_LATER)


def test_times_are_sane() -> None:
    assert ECHO < EVERY
    assert sys.float_info.epsilon < next_report(0.0) == EVERY
    assert KAFKA.line(8.2, "", "calls wait") == (
        "Kafka at 10.0.0.7:9092 has not answered for 8 s: calls wait. Check that it runs, that this machine reaches it, and that "
        "--kafka names it"
    )
