"""A short run of the fuzzers; the long one is `make fuzz`."""

from __future__ import annotations

import pytest

from tests.bad_input import grpc_fuzz, openapi_fuzz
from tests.bad_input.__main__ import fuzz_codecs
from tests.bad_input.dialogues import dialogue
from tests.bad_input.http_fuzz import fuzz

REQUESTS = 4000


def test_the_codecs() -> None:
    assert fuzz_codecs(0, 0, 20_000) == []


def test_a_dialogue_is_made_of_its_number_alone() -> None:
    first, second = ([dialogue(3, number) for number in range(40)] for _ in range(2))
    assert [[act.data for act in one.acts] for one in first] == [[act.data for act in one.acts] for one in second]


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_http() -> None:
    """Every answer is right, in order and its own; no request inside a body is executed; memory stays within its bounds."""
    outcome = await fuzz(0, 0, REQUESTS)
    assert outcome.problems == []
    assert outcome.requests >= REQUESTS
    assert len(outcome.manners) == 5


def test_a_message_is_made_of_its_number_alone() -> None:
    assert [grpc_fuzz.message_of(3, number) for number in range(40)] == [
        grpc_fuzz.message_of(3, number) for number in range(40)
    ]


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_grpc() -> None:
    """No message makes a fault; honest requests beside them are answered; memory stays within its bounds."""
    outcome = await grpc_fuzz.fuzz(0, 0, REQUESTS)
    assert outcome.problems == []
    assert outcome.messages == REQUESTS
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(outcome.statuses)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_openapi_document_is_true() -> None:
    """schemathesis: every status, content type and body is documented; no 5xx but 501 and 503; memory stays."""
    outcome = openapi_fuzz.fuzz(0, 2000)
    assert outcome.problems == []
    assert outcome.calls >= 2000
    assert outcome.statuses[200] > 100
