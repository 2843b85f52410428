"""The output of `show` and `list` for people and programs, and the selection of letters."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dead import showing
from penstock.dead.letters import ReadLetter, read_letter
from penstock.dead.selection import Selection, counted, since
from protocol.errors import InvalidArgument
from protocol.naming import Names
from protocol.ports import Record
from protocol.tensors import from_array
from tests.penstock.dead_letters import Pairs, evidence, request

NAMES = Names("penstock")


def letter(value: bytes = b"", headers: Pairs = (), marks: Pairs = (), offset: int = 0) -> ReadLetter:
    found = read_letter(Record("penstock.dead.m", 0, offset, 1.7e9, value, (*headers, *marks)), "m")
    assert isinstance(found, ReadLetter)
    return found


@given(st.binary(max_size=300), st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=40)), max_size=6).map(tuple))
def test_whatever_a_stranger_sent_is_shown_as_json_and_as_printable_lines(value: bytes, headers: Pairs) -> None:
    facts = showing.whole(letter(value, headers, evidence()), value, NAMES)

    assert orjson.loads(orjson.dumps(facts))["place"] == "m/0/0"
    assert all(line.isprintable() for line in showing.page(facts))


def test_inputs_are_summarised() -> None:
    value, headers = request("r1", values=[1.5, float("nan"), float("inf"), *range(20)], label="mine")
    facts = showing.whole(letter(value, headers, evidence(batch="a,b", signal="SIGSEGV")), value, NAMES)
    text = "\n".join(showing.page(facts))

    (shown,) = facts["request"]["inputs"]
    assert (shown["name"], shown["datatype"], shown["shape"], shown["not_finite"]) == ("X", "FP32", [1, 23], 2)
    assert shown["first_values"][:4] == [1.5, "nan", "inf", 0.0]
    assert len(shown["first_values"]) == showing.VALUES
    assert facts["batch_mates"] == ["a", "b"]
    assert "X FP32[1, 23] = 1.5, nan, inf" in text
    assert "SIGSEGV" in text


def test_what_is_no_request_is_shown_as_bytes() -> None:
    facts = showing.whole(letter(b"\xc1\x1b[31mrubbish", (), evidence("undecodable")), b"\xc1\x1b[31mrubbish", NAMES)

    assert "not a msgpack value" in facts["request"]["problem"]
    assert facts["request"]["first_bytes"].startswith("c1 1b 5b")
    assert "|" not in facts["request"]["first_bytes"]
    assert any("0000  c1 1b 5b 33 31 6d" in line and "..[31mrubbish" in line for line in showing.page(facts))


def test_texts_of_a_request_are_cut() -> None:
    made = showing.tensor(from_array("T", np.array([b"a" * 500, b"\xff"], dtype=object)))

    assert made["first_values"] == ["a" * showing.ELEMENT, "0xff"]


def test_the_table_keeps_to_the_terminal_and_says_what_was_sent_again() -> None:
    lines = list(
        showing.table([letter(b"", (("id", b"a\x1b[2J"),), evidence(error="e" * 900))], {"a%1B%5B2J": "a~r1"}, 120)
    )

    assert lines[0].split() == ["BURIED", "MODEL", "REASON", "ID", "ERROR"]
    assert len(lines[1]) <= 120
    assert "\x1b" not in lines[1]
    assert "[sent again as a~r1]" in lines[1]


def test_a_selection_wants_all_that_it_says() -> None:
    mine = letter(b"", (("id", b"a"), ("principal", b"bob")), evidence("hung"))

    assert Selection().covers(mine)
    assert Selection(("hung", "poison"), 1.6e9, "w1", ("other", "a")).covers(mine)
    assert Selection(ids=("bob/a",)).covers(mine)
    assert Selection(ids=("m/0/0",)).covers(mine)
    for other in (Selection(("poison",)), Selection(since=1.8e9), Selection(worker="w2"), Selection(ids=("b",))):
        assert not other.covers(mine)


def test_letters_are_counted_by_reason() -> None:
    letters = [letter(marks=evidence(reason)) for reason in ("hung", "poison", "poison")]

    assert counted(letters) == {"poison": 2, "hung": 1}
    assert list(counted(letters)) == ["poison", "hung"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 910.0), ("1.5m", 910.0), ("0h", 1000.0), ("1970-01-01", 0.0), ("1970-01-01T01:00+01:00", 0.0)],
)
def test_since_is_an_age_or_a_date(text: str, seconds: float) -> None:
    assert since(text, 1000.0) == seconds


@pytest.mark.parametrize("text", ["", "2 h", "h", "yesterday", "-3h", "1e3s"])
def test_any_other_since_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="neither an age"):
        since(text, 1000.0)
