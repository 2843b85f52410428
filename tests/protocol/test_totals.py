from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.totals import LAST, WRAPS, Counts, KeptTotals, add, tally

KEYS = [("m", "1"), ("m", "2")]
NUMBERS = st.dictionaries(st.sampled_from(["ok", "ok.ns", "b1"]), st.integers(0, 2**50), max_size=3)


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[Counts | None], list[bool]]:
    """The counts of one call's answers, some of them shared, and which are written."""
    pool = draw(st.lists(st.builds(Counts, st.sampled_from(KEYS), NUMBERS), min_size=1, max_size=3))
    alone = draw(st.lists(st.builds(Counts, st.sampled_from(KEYS), NUMBERS, NUMBERS), max_size=3))
    counts = draw(st.permutations([*alone, *draw(st.lists(st.sampled_from([None, *pool]), max_size=6))]))
    return list(counts), [draw(st.booleans()) for _ in counts]


@given(st.lists(calls(), max_size=6))
def test_totals_are_what_one_by_one_adds_up(given_calls: list[tuple[list[Counts | None], list[bool]]]) -> None:
    kept = KeptTotals()
    expected: dict[tuple[str, str], dict[str, int]] = {key: {} for key in KEYS}
    for counts, written in given_calls:
        pairs = list(zip(counts, written, strict=True))
        for key in KEYS:
            mine = [(one, new) for one, new in pairs if one is not None and one.key == key]
            for one, new in mine:
                if new:
                    for name, number in one.answer.items():
                        expected[key][name] = expected[key].get(name, 0) + number
            if any(new for _, new in mine):
                for one, _ in mine:
                    for name, number in one.batch.items():
                        expected[key][name] = expected[key].get(name, 0) + number
        kept.count(counts, written)
    assert kept.read(KEYS) == [expected[key] for key in KEYS]


def test_what_changed_is_reported() -> None:
    kept = KeptTotals()
    one, two = Counts(KEYS[0], {"ok": 1}), Counts(KEYS[1], {"ok": 1})
    assert kept.count([one, two, None], [True, False, True]) == {KEYS[0]}
    assert kept.count([one, None], [False, True]) == set()
    assert kept.count([], []) == set()


def test_a_shared_addition_is_grouped() -> None:
    shared = Counts(KEYS[0], {"ok": 1})
    grouped = tally([Counts(KEYS[0], {"ok": 1}, {"b2": 1}), shared, None, shared])
    assert (grouped.batch, grouped.kind_of) == ({"b2": 1}, [0, 1, -1, 1])
    assert grouped.total() == {"ok": 3, "b2": 1}
    assert grouped.total([False, True, True, False]) == {"ok": 1, "b2": 1}
    assert grouped.total([False, False, True, False]) == {}


def test_the_last_time_is_the_largest_and_numbers_stay_below_their_limit() -> None:
    total = {LAST: 5, "ns": WRAPS - 2}
    add(total, {LAST: 3, "ns": 1}, 1)
    assert total == {LAST: 5, "ns": WRAPS - 1}
    add(total, {LAST: 9, "ns": 4}, 2)
    assert total == {LAST: 9, "ns": 4}


def test_what_was_read_is_a_copy() -> None:
    kept = KeptTotals()
    kept.count([Counts(KEYS[0], {"ok": 1})], [True])
    (total,) = kept.read(KEYS[:1])
    total["ok"] = 7
    assert kept.read(KEYS[:1]) == [{"ok": 1}]
