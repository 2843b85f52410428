"""A short run of the fuzzer of Kafka records; the long one is `python -m tests.bad_input --records N`."""

from __future__ import annotations

import collections

import pytest

from tests.bad_input.kafka_fuzz import fuzz_records
from tests.bad_input.kafka_records import GROUP, MODELS, PARTITIONS, group

RECORDS = 2000


def test_a_group_is_made_of_its_number_alone() -> None:
    for number in range(0, 50 * GROUP, GROUP):
        assert group(3, number, b"c") == group(3, number, b"c")
    assert group(3, 0, b"c") != group(4, 0, b"c")


def test_the_groups_have_every_codec_transaction_model_and_partition() -> None:
    groups = [group(0, number, b"c") for number in range(0, 300 * GROUP, GROUP)]
    seen = collections.Counter((each.codec, each.transaction) for each in groups)
    assert len(seen) == 5 * 3
    assert {(each.model, each.partition) for each in groups} == {(m, p) for m in MODELS for p in range(PARTITIONS)}
    assert any(len(each.records) == 1 for each in groups)  # a bomb


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_strangers_records_harm_nobody(kafka_bootstrap: str, redis_url: str, prefix: str) -> None:
    """Good requests between them are answered correctly and once, commits reach the end, the worker lives and is ready."""
    outcome = await fuzz_records(kafka_bootstrap, redis_url, prefix, 0, 0, RECORDS)
    assert outcome.problems == []
    assert outcome.records >= RECORDS
    assert outcome.good > RECORDS / 4
    assert outcome.given_up > RECORDS / 10
