import struct

from hypothesis import given
from hypothesis import strategies as st

from infra.local.probes import brokers_in, listens, metadata_request, redis_ready
from infra.local.process import free_port


def test_the_question_to_kafka_is_a_metadata_request_of_version_1_for_no_topic() -> None:
    expected = bytes.fromhex("00000016 0003 0001 00000007 0008") + b"penstock" + bytes.fromhex("00000000")

    assert metadata_request(correlation=7) == expected


def test_counts_the_brokers_of_an_answer() -> None:
    assert brokers_in(struct.pack(">ii", 7, 3) + b"whatever follows", correlation=7) == 3


def test_an_answer_without_brokers_is_a_broker_that_is_not_ready() -> None:
    assert brokers_in(struct.pack(">ii", 7, 0), correlation=7) == 0


def test_an_answer_to_another_question_counts_nothing() -> None:
    assert brokers_in(struct.pack(">ii", 8, 3), correlation=7) == 0


@given(st.binary(max_size=64))
def test_no_bytes_upset_the_reader(answer: bytes) -> None:
    assert brokers_in(answer, correlation=1) >= 0


def test_redis_is_ready_when_it_answers_or_wants_a_password_and_not_while_it_loads() -> None:
    assert redis_ready(b"+PONG")
    assert redis_ready(b"-NOAUTH Authentication required.")
    assert not redis_ready(b"-LOADING Redis is loading the dataset in memory")
    assert not redis_ready(b"HTTP/1.1 400 Bad Request")


def test_nobody_listens_on_a_free_port() -> None:
    assert not listens("127.0.0.1", free_port())
