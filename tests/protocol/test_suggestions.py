"""What a mistyped name was probably meant to be."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.suggestions import did_you_mean, nearest

MODELS = ["digits", "add_sub", "mobilenet_v2_quantized_for_edges"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("digit", "digits"), ("DIGITS", "digits"), ("dgiits", "digits"), ("addsub", "add_sub"), ("add-sub", "add_sub"),
        ("mobilenet", "mobilenet_v2_quantized_for_edges"), ("missing", ""), ("x", ""), ("", ""), ("digits" * 40, ""),
    ],
)  # fmt: skip
def test_a_similar_name_is_found_and_no_other(word: str, meant: str) -> None:
    assert nearest(word, MODELS) == meant


def test_the_end_of_an_error() -> None:
    assert did_you_mean("digit", MODELS) == "; did you mean 'digits'?"
    assert did_you_mean("nothing", MODELS) == ""


@given(st.text(), st.lists(st.text()))
def test_what_is_found_is_a_known_other_name(word: str, known: list[str]) -> None:
    found = nearest(word, known)

    assert found == "" or (found in known and found != word)


def test_many_long_names_take_milliseconds() -> None:
    known = [f"{'abcdefgh' * 12}{number}" for number in range(100_000)]
    begun = time.perf_counter()
    nearest("hgfedcba" * 12, known)

    assert time.perf_counter() - begun < 0.5
