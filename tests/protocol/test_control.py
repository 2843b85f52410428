"""The records of the control topic, and what heartbeats say about them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.control import (
    AliasRoute,
    DesiredModel,
    ModelAliases,
    decode_aliases,
    decode_desired,
    encode_aliases,
    encode_desired,
    file_key,
)
from protocol.errors import CodecError
from protocol.frames import pack
from protocol.heartbeat_codec import decode_announcement, decode_heartbeat, encode_announcement, encode_heartbeat
from protocol.messages import Announcement, ControlProgress, Heartbeat, ModelState, Outcome

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
times = st.integers(0, 2**40).map(lambda micros: micros / 1e6)
desired = st.builds(
    DesiredModel, texts, st.booleans(), texts, st.dictionaries(texts, texts, max_size=3), st.integers(0, 9), st.booleans(),
    times, times, st.lists(texts, max_size=3).map(tuple), times, texts,
)  # fmt: skip
routes = st.dictionaries(
    texts,
    st.builds(
        AliasRoute, st.lists(st.tuples(texts, st.integers(1, 100)), max_size=3).map(tuple), texts, st.floats(0, 1)
    ),
    max_size=3,
)
progress = st.builds(
    ControlProgress, texts, st.integers(0, 2**62), st.sampled_from(ModelState), texts, st.booleans(), st.sampled_from(Outcome)
)  # fmt: skip


@given(desired)
def test_the_desired_state_comes_back(entry: DesiredModel) -> None:
    key, value = encode_desired(entry)
    assert decode_desired(value) == entry
    assert key.decode() == f"model/{entry.model}"


@given(st.builds(ModelAliases, texts, routes, routes, times, texts))
def test_aliases_come_back(entry: ModelAliases) -> None:
    key, value = encode_aliases(entry)
    assert decode_aliases(value) == entry
    assert key.decode() == f"aliases/{entry.model}"


@given(st.lists(progress, max_size=3).map(tuple), st.tuples(st.integers(0, 2**50), st.integers(0, 2**50)))
def test_progress_and_memory_travel_in_the_heartbeat(
    control: tuple[ControlProgress, ...], memory: tuple[int, int]
) -> None:
    beat = Heartbeat("w", "i", "h", 1, 2.0, control=control, memory=memory, mode="explicit", unloaded=("a", "b"))
    assert decode_heartbeat(encode_heartbeat(beat)) == beat


def test_labels_travel_in_the_announcement() -> None:
    entry = Announcement("m", "1", ModelState.READY, {}, "d", labels={"Y": ("cat", "dog")})
    assert decode_announcement(encode_announcement(entry)[1]) == entry


@given(
    st.binary(max_size=60)
    | st.dictionaries(texts, st.none() | st.integers(-(2**63), 2**64 - 1) | texts, max_size=4).map(pack)
)
def test_any_bytes_are_a_record_or_refused(value: bytes) -> None:
    for decode in (decode_desired, decode_aliases):
        with pytest.raises(CodecError):
            decode(value)


def test_a_file_has_a_key_per_part() -> None:
    assert file_key("ab", 2) == b"file/ab/2"
