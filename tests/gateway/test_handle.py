from __future__ import annotations

import base64

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.handle import MAX_HANDLE, MAX_KEYS, Handle, Keyring, is_handle, sign, verify
from protocol.errors import InvalidArgument, NotFound, Unavailable

KEY = b"k" * 32
handles = st.builds(
    Handle,
    topic=st.text(min_size=1, max_size=40),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    id=st.text(min_size=1, max_size=32),
    principal=st.text(min_size=1, max_size=16),
    fingerprint=st.text(max_size=32),
    binary=st.one_of(st.booleans(), st.frozensets(st.text(max_size=8), max_size=4)),
)
HANDLE = Handle("penstock.infer.m.1", 2, 17, "ab" * 16, "-", "cd" * 16, frozenset({"OUT"}))


@given(handles)
def test_a_handle_survives_and_stands_in_a_url(handle: Handle) -> None:
    text = sign(handle, KEY)

    assert verify(text, [KEY]) == handle
    assert is_handle(text)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@given(st.integers(0, 10**6), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_changed_handle_is_refused(at: int, character: str) -> None:
    text = sign(HANDLE, KEY)
    at %= len(text)
    changed = text[:at] + character + text[at + 1 :]
    assume(changed != text)
    try:
        # The last character of base64 has unused bits; changing them leaves the handle the same.
        assert verify(changed, [KEY]) == HANDLE
    except NotFound:
        return
    assert at in (text.index(".") - 1, len(text) - 1)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(NotFound):
        verify(sign(HANDLE, KEY), [b"x" * 32])


@given(st.text(max_size=200))
def test_any_text_is_a_handle_or_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        verify(text, [KEY])


def test_text_that_is_longer_than_any_handle_is_not_looked_at() -> None:
    payload = base64.urlsafe_b64encode(b"x" * MAX_HANDLE).decode()

    with pytest.raises(NotFound):
        verify(payload + ".aaaa", [KEY])


def test_output_names_that_do_not_fit_a_url_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="ask for all outputs"):
        sign(Handle("t", 0, 0, "i", "-", "f", frozenset({"n" * MAX_HANDLE})), KEY)


@pytest.mark.parametrize(
    "text", ["a.b", "penstock.infer.m.1-0-17-1", "v1.2", "", "." * 30, "a." + "b" * 23, "é." + "b" * 22]
)
def test_the_ids_of_producers_do_not_look_like_handles(text: str) -> None:
    assert not is_handle(text)


def test_gateways_with_the_same_secret_sign_alike() -> None:
    one, other = Keyring("s"), Keyring("s")
    other.add(b"agreed upon")

    assert one.sign(HANDLE) == other.sign(HANDLE)
    assert one.verify(other.sign(HANDLE)) == HANDLE
    with pytest.raises(NotFound):
        Keyring("t").verify(one.sign(HANDLE))


def test_the_secret_that_was_agreed_on_last_signs_and_those_before_verify() -> None:
    keys, first, second = Keyring(""), Keyring(""), Keyring("")
    with pytest.raises(Unavailable):
        keys.sign(HANDLE)
    for ring, secrets in ((first, [b"1"]), (second, [b"2"]), (keys, [b"1", b"2", b"1", b"2"])):
        for secret in secrets:
            ring.add(secret)

    assert keys.sign(HANDLE) == second.sign(HANDLE) != first.sign(HANDLE)
    assert keys.verify(first.sign(HANDLE)) == keys.verify(second.sign(HANDLE)) == HANDLE
    for number in range(MAX_KEYS):
        keys.add(b"more %d" % number)
    with pytest.raises(NotFound):
        keys.verify(first.sign(HANDLE))
