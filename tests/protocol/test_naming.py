from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidArgument
from protocol.messages import Lane
from protocol.naming import MAX_ID, Names, decode_model, encode_model, ref

NAMES = Names("penstock")
models = st.text(min_size=1, max_size=18).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
versions = st.integers(0, 10**9).map(str)
ids = st.text(min_size=1, max_size=20)


@given(models)
def test_a_model_name_is_mapped_reversibly_to_what_kafka_allows(model: str) -> None:
    part = encode_model(model)

    assert re.fullmatch(r"[a-zA-Z0-9_-]+", part)
    assert decode_model(part) == model


@given(models, versions)
def test_a_topic_parses_back(model: str, version: str) -> None:
    for lane in Lane:
        topic = NAMES.request_topic(model, version, lane)

        assert re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", topic)
        assert NAMES.parse_request_topic(topic) == (lane, model, version)


@given(models, versions, models, versions)
def test_no_two_topics_collide_where_kafka_takes_dot_and_underscore_as_equal(
    model: str, version: str, other: str, other_version: str
) -> None:
    first, second = NAMES.infer_topic(model, version), NAMES.infer_topic(other, other_version)

    assert (first.replace(".", "_") == second.replace(".", "_")) == ((model, version) == (other, other_version))


def test_common_names_stay_readable() -> None:
    assert NAMES.infer_topic("densenet_onnx", "1") == "penstock.infer.densenet_onnx.1"
    assert NAMES.infer_topic("resnet-50", "2") == "penstock.infer.resnet--50.2"
    assert NAMES.infer_topic("llama.cpp", "3") == "penstock.infer.llama-2Ecpp.3"


@given(st.text(max_size=30))
def test_any_text_is_an_encoded_model_name_or_refused(text: str) -> None:
    try:
        model = decode_model(text)
    except InvalidArgument:
        return
    assert encode_model(model) == text


@pytest.mark.parametrize("topic", ["penstock.infer.a", "other.infer.a.1", "penstock.infer.a.x", "penstock.infer.a-.1"])
def test_foreign_topics_are_refused(topic: str) -> None:
    with pytest.raises(InvalidArgument):
        NAMES.parse_request_topic(topic)


def test_a_reply_topic_is_one_of_our_topics_of_answers_or_none() -> None:
    assert NAMES.reply_topic(NAMES.reply_to_topic("night-run_1")) == "penstock.results.night-run_1"
    assert NAMES.batch_topic("resnet-50", "2") == "penstock.batch.resnet--50.2"
    for other in ("", "kafka:", "penstock.results.a", "kafka:penstock.infer.m.1", "kafka:other.results.a"):
        assert NAMES.reply_topic(other) == ""
    for name in ("", "a.b", "a\n", "a" * 129):
        assert NAMES.reply_topic(f"kafka:penstock.results.{name}") == ""
    with pytest.raises(InvalidArgument, match="results name"):
        NAMES.results_topic("a.b")


@pytest.mark.parametrize("prefix", ["", "Upper", "a.b", "1a", "a" * 32, "a\n"])
def test_prefixes_that_break_a_name_are_refused(prefix: str) -> None:
    with pytest.raises(InvalidArgument, match="prefix"):
        Names(prefix)


@pytest.mark.parametrize(("model", "version"), [("m", "v1"), ("m", ""), ("m", "1\n"), ("m" * 250, "1"), ("", "1")])
def test_names_without_a_legal_topic_are_refused(model: str, version: str) -> None:
    with pytest.raises(InvalidArgument):
        NAMES.infer_topic(model, version)


@given(ids, ids, ids, ids)
def test_refs_of_different_principals_never_meet(principal: str, one: str, other: str, two: str) -> None:
    first, second = ref(principal, one), ref(other, two)

    assert (first == second) == ((principal, one) == (other, two))


def test_an_anonymous_ref_is_its_id() -> None:
    assert ref("-", "0f3a") == "0f3a"
    assert ref("bob", "1") == "bob/1"
    assert ref("-", "bob/1") == "bob%2F1"


@pytest.mark.parametrize("text", ["", "x" * (MAX_ID + 1)])
def test_ids_without_bounds_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        ref("-", text)


def test_only_our_gateways_channels_are_obeyed_as_reply_to() -> None:
    assert NAMES.is_reply_to(NAMES.gateway_channel("gw-1"))
    for channel in (
        "penstock:gateway:",
        "penstock:cancel:x",
        "other:gateway:gw",
        "penstock:gateway:a:b",
        "__keyspace@0__",
    ):
        assert not NAMES.is_reply_to(channel)
