from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ids import MAX_KEY, Ids, fingerprint, keyed_id, trace_context
from protocol.errors import InvalidArgument

FLEET_ID = "0123456789abcdef" * 2


def test_ids_are_128_bits_in_hexadecimal_and_never_twice() -> None:
    new_id = Ids()
    ids = [new_id() for _ in range(2000)]

    assert len(set(ids)) == 2000
    assert all(len(bytes.fromhex(text)) == 16 for text in ids)


parts = st.tuples(*[st.text(max_size=4)] * 3, st.text(min_size=1, max_size=4))


@given(parts, parts)
def test_a_keyed_id_is_that_of_its_four_parts_and_of_no_others(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    assert (keyed_id(*a) == keyed_id(*b)) == (a == b)


@pytest.mark.parametrize("key", ["", "k" * (MAX_KEY + 1)])
def test_a_key_has_a_length(key: str) -> None:
    with pytest.raises(InvalidArgument, match="Idempotency-Key"):
        keyed_id("-", "m", "", key)


def test_a_fingerprint_is_that_of_body_and_header_length() -> None:
    assert fingerprint(b"body", "") == fingerprint(bytearray(b"body"), "")
    assert len({fingerprint(b"body", ""), fingerprint(b"body", "4"), fingerprint(b"bodz", "")}) == 3


def test_a_callers_trace_context_goes_on() -> None:
    given_context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    assert trace_context(given_context, FLEET_ID) == given_context


@pytest.mark.parametrize(
    "given_context",
    [
        "",
        "nonsense",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
    ],
)
def test_anything_else_becomes_a_context_whose_trace_is_the_fleet_id(given_context: str) -> None:
    assert trace_context(given_context, FLEET_ID) == f"00-{FLEET_ID}-{FLEET_ID[:16]}-00"
