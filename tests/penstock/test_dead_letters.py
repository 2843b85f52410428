"""Reading dead records with any headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dead.letters import ReadLetter, Redriven, read_letter
from protocol.dead_letter import REASONS, DeadLetter, DeadReason, encode_evidence, is_evidence, split_headers
from protocol.naming import Names
from protocol.ports import Record
from tests.penstock.dead_letters import evidence

NAMES = Names("penstock")
header_names = st.one_of(
    st.sampled_from(
        ["id", "principal", "dead-reason", "dead-topic", "dead-error", "redrive-of", "redriven", "deadline"]
    ),
    st.text(max_size=12),
)
pairs = st.lists(st.tuples(header_names, st.binary(max_size=20)), max_size=8).map(tuple)


def record(*headers: tuple[str, bytes], value: bytes = b"v", offset: int = 3) -> Record:
    return Record("penstock.dead.m", 0, offset, 1.7e9, value, headers)


def letter(*headers: tuple[str, bytes], value: bytes = b"v") -> ReadLetter:
    found = read_letter(record(*headers, value=value), "m")
    assert isinstance(found, ReadLetter)
    return found


@given(pairs)
def test_the_originals_headers_come_back_whatever_a_stranger_called_them(
    original: tuple[tuple[str, bytes], ...],
) -> None:
    marks = evidence()

    assert split_headers((*original, *marks)) == (original, marks)


@given(pairs)
def test_any_headers_can_be_read(headers: tuple[tuple[str, bytes], ...]) -> None:
    found = read_letter(record(*headers), "m")

    assert isinstance(found, ReadLetter)
    assert len(found.ref) > 0
    assert found.root_ref
    assert (found.reason, found.attempts, found.source, found.batch_ids) is not None
    assert found.version(NAMES) is None or found.topic.startswith("penstock.infer.m.")
    assert not any(is_evidence(name) for name, _ in found.original) or "dead-reason" in dict(headers)


def test_evidence_of_another_version_is_found_although_something_follows_it() -> None:
    found = letter(("id", b"a"), ("dead-reason", b"hung"), ("dead-worker", b"w9"), ("new", b"1"))

    assert found.original == (("id", b"a"), ("new", b"1"))
    assert (found.reason, found.worker) == ("hung", "w9")


def test_the_reasons_are_the_workers() -> None:
    assert set(REASONS) == {reason.value for reason in DeadReason}


def test_a_letter_says_what_its_worker_wrote() -> None:
    found = letter(("id", b"r1"), *evidence("poison", signal="SIGSEGV", batch="a,b", model_digest="ab"))

    assert (found.reason, found.error, found.signal) == ("poison", "it was ended by a signal", "SIGSEGV")
    assert (found.attempts, found.worker, found.batch_ids) == (3, "w1", ("a", "b"))
    assert (found.topic, found.source, found.version(NAMES)) == ("penstock.infer.m.1", (0, 7), "1")


@given(pairs, st.text(max_size=20), st.lists(st.text("ab,~", min_size=1, max_size=4), max_size=3))
def test_what_workers_write_today_is_what_is_read(
    original: tuple[tuple[str, bytes], ...], error: str, batch_ids: list[str]
) -> None:
    died = Record("penstock.infer.m.4", 2, 9, 1.5, b"v", original)
    marks = encode_evidence(DeadLetter(died, DeadReason.HUNG, error, "builtins.OSError", 9, 2, batch_ids), "w7", "ab12")
    found = letter(*original, *((name, text.encode(errors="replace")) for name, text in marks))

    assert found.original == original
    assert (found.reason, found.signal, found.attempts, found.worker) == ("hung", "SIGKILL", 2, "w7")
    assert (found.batch_ids, found.source, found.version(NAMES)) == (tuple(batch_ids), (2, 9), "4")


def test_a_sentence_where_a_reason_should_be_is_the_error() -> None:
    found = letter(("dead-reason", b"not a msgpack value"))

    assert (found.reason, found.error) == ("unknown", "not a msgpack value")


def test_connects_headers_serve_where_ours_are_missing() -> None:
    found = letter(*(pair for pair in evidence() if not pair[0].startswith("dead-") or pair[0] == "dead-reason"))

    assert (found.topic, found.source) == ("penstock.infer.m.1", (0, 7))


@pytest.mark.parametrize("given_id", [b"", b"\xff", b"x" * 300])
def test_an_id_that_cannot_be_one_is_replaced_by_the_place_as_workers_do(given_id: bytes) -> None:
    found = letter(("id", given_id), *evidence())

    assert found.id == "penstock.infer.m.1-0-7-1700000000123"


def test_a_letter_without_any_header_is_called_by_its_own_place() -> None:
    found = letter()

    assert (found.id, found.place, found.reason) == ("m-0-3", "m/0/3", "unknown")


@pytest.mark.parametrize(
    ("request_id", "redriven", "root"),
    [
        ("a~r2", True, ("a", 2)),
        ("a~r2", False, ("a~r2", 0)),
        ("a~r0", True, ("a~r0", 0)),
        ("a~r1~r3", True, ("a~r1", 3)),
    ],
)
def test_only_a_redriven_record_has_a_root(request_id: str, redriven: bool, root: tuple[str, int]) -> None:
    headers = [("id", request_id.encode()), *([("redrive-of", b"a")] if redriven else [])]

    assert letter(*headers, *evidence()).root == root


def test_a_note_of_a_redrive_is_no_letter() -> None:
    note = read_letter(record(("redriven", b"bob/a"), ("redriven-as", b"a~r12"), value=b"", offset=9), "m")

    assert isinstance(note, Redriven)
    assert (note.root_ref, note.id, note.number, note.offset) == ("bob/a", "a~r12", 12, 9)


def test_a_stranger_cannot_pass_a_dead_record_off_as_a_note() -> None:
    assert isinstance(read_letter(record(("redriven", b"a"), *evidence(), value=b""), "m"), ReadLetter)
