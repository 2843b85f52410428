"""Which letters are sent again, and under which ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.dead.letters import ReadLetter, Redriven, read_letter
from penstock.dead.redriving import Redrive, due, plan_redrives
from protocol.naming import Names
from protocol.ports import Record
from tests.penstock.dead_letters import Pairs, evidence

NAMES = Names("penstock")
names = st.one_of(st.sampled_from(["id", "deadline", "redrive-of", "dead-reason", "principal"]), st.text(max_size=8))
originals = st.lists(st.tuples(names, st.binary(max_size=12)), max_size=8).map(tuple)


def letter(headers: Pairs = (("id", b"a"),), offset: int = 0, marks: Pairs | None = None) -> ReadLetter:
    found = read_letter(
        Record("penstock.dead.m", 0, offset, float(offset), b"v", (*headers, *(marks or evidence()))), "m"
    )
    assert isinstance(found, ReadLetter)
    return found


def sent(*letters: ReadLetter, notes: tuple[Redriven, ...] = (), again: bool = False) -> list[str]:
    return [each.id for each in plan_redrives(letters, letters, notes, NAMES, again=again).redrives]


def note(of: str, as_: str, offset: int) -> Redriven:
    return Redriven(of, as_, 0, offset, float(offset))


def again(name: str, offset: int) -> ReadLetter:
    return letter((("id", name.encode()), ("redrive-of", b"a")), offset)


@given(originals)
def test_all_headers_but_three_stay_as_they_were_and_where_they_were(original: Pairs) -> None:
    headers = Redrive(letter(original), "x~r1").headers()
    changed = {"id", "deadline", "redrive-of"}

    assert [pair for pair in headers if pair[0] not in changed] == [pair for pair in original if pair[0] not in changed]
    assert [value for name, value in headers if name == "id"] == [b"x~r1"]
    assert [value for name, value in headers if name == "redrive-of"] == [letter(original).id.encode()]
    assert "deadline" not in dict(headers)


@given(st.lists(st.sampled_from(["redrive", "die", "again"]), max_size=12))
def test_a_number_is_never_used_twice_while_notes_are_kept(steps: list[str]) -> None:
    letters, notes, used, position = [letter(offset=0)], [], set(), 1
    for step in steps:
        made = plan_redrives(letters, letters, notes, NAMES, again=step == "again").redrives
        if step == "die" and notes:
            letters.append(again(notes[-1].id, position))
        for redrive in made if step != "die" else ():
            assert redrive.id not in used
            used.add(redrive.id)
            notes.append(note("a", redrive.id, position))
        position += 1
    assert used == {f"a~r{number}" for number in range(1, len(used) + 1)}


def test_what_was_sent_again_is_left_out_until_it_dies_again() -> None:
    first, second = letter(offset=0), again("a~r1", 5)

    assert sent(first) == ["a~r1"]
    assert sent(first, notes=(note("a", "a~r1", 3),)) == []
    assert sent(first, notes=(note("a", "a~r1", 3),), again=True) == ["a~r2"]
    assert sent(first, second, notes=(note("a", "a~r1", 3),)) == ["a~r2"]


def test_a_redrive_whose_note_was_lost_is_repeated_under_the_same_id() -> None:
    assert sent(letter()) == sent(letter()) == ["a~r1"]


def test_a_redrive_that_died_is_counted_although_its_note_was_lost() -> None:
    assert sent(letter(offset=0), again("a~r3", 5)) == ["a~r4"]


def test_a_request_with_several_dead_letters_is_sent_once() -> None:
    both = [letter(offset=0), letter(offset=1)]
    made = plan_redrives(both, both, [], NAMES, again=False)

    assert [each.letter.offset for each in made.redrives] == [1]
    assert "that letter counts" in made.skipped[0].why


def test_ids_of_two_principals_are_two_requests() -> None:
    mine, yours = letter(offset=0), letter((("id", b"a"), ("principal", b"bob")), 1)

    assert sent(mine, yours, notes=(note("bob/a", "a~r4", 9),), again=True) == ["a~r1", "a~r5"]


def test_what_cannot_be_sent_says_why() -> None:
    cases = [
        (letter(marks=evidence("lost")), "deleted unread"),
        (letter(marks=(("dead-reason", b"poison"),)), "does not name its original topic"),
        (letter(marks=evidence(topic="penstock.models")), "is not a topic of model m"),
        (letter(marks=evidence(topic="penstock.infer.other.1")), "is not a topic of model m"),
        (letter((("id", b"i" * 256),)), "at most 256 characters"),
    ]
    for each, why in cases:
        made = plan_redrives([each], [each], [], NAMES, again=False)
        assert made.redrives == ()
        assert why in made.skipped[0].why


def test_an_undecodable_record_without_an_id_gets_one_of_its_place() -> None:
    assert sent(letter(())) == ["penstock.infer.m.1-0-7-1700000000123~r1"]


def test_the_rate_spreads_the_records() -> None:
    assert [due(number, 4.0, 10.0) for number in range(3)] == [10.0, 10.25, 10.5]
    assert due(1000, 0.0, 10.0) == 10.0


def test_a_letter_of_evidence_alone_is_not_sent() -> None:
    bare = letter(marks=evidence("undecodable", left_out="17000000 bytes of value, key and headers"))
    made = plan_redrives([bare], [bare], (), NAMES, again=False)
    assert not made.redrives
    assert "17000000 bytes of value, key and headers were too large" in str(made)
