"""Which dead letters are sent again, under which id, and when. Pure.

Invariants: a redriven record has the original's key, value and headers, except `id`, `redrive-of` and `deadline`; one request is
sent once, however many dead letters it has; a redrive whose bookkeeping was lost is repeated under the same id, so that the fence
of the result store keeps one answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

from penstock.dead.letters import ReadLetter, Redriven
from protocol.dead_letter import REDRIVE_OF, REDRIVEN, REDRIVEN_AS, DeadReason, HeaderPairs
from protocol.naming import MAX_ID, Names
from protocol.ports import OutRecord

DROPPED: Final = frozenset({"deadline"})
"""The deadline has passed: a request that kept it would be refused at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Redrive:
    """One record to send again.

    Attributes:
        letter: the dead letter.
        id: its new id, `<id>~r<n>`.
    """

    letter: ReadLetter
    id: str

    def headers(self) -> HeaderPairs:
        """The headers of the new record; the new id replaces the old one in its place."""
        kept: list[tuple[str, bytes | None]] = []
        named = False
        for name, value in self.letter.original:
            if name == "id" and not named:
                kept.append((name, self.id.encode()))
                named = True
            elif name not in DROPPED and name not in ("id", REDRIVE_OF):
                kept.append((name, value))
        if not named:
            kept.append(("id", self.id.encode()))
        return (*kept, (REDRIVE_OF, self.letter.id.encode()))

    def note(self) -> OutRecord:
        """Its note in the dead topic."""
        return OutRecord(b"", ((REDRIVEN, self.letter.root_ref.encode()), (REDRIVEN_AS, self.id.encode())))


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A letter that is not sent again, with the reason."""

    letter: ReadLetter
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class RedrivePlan:
    """What a redrive would do, in the order of the dead topic."""

    redrives: tuple[Redrive, ...]
    skipped: tuple[Skipped, ...]


def plan_redrives(
    chosen: Sequence[ReadLetter],
    everything: Iterable[ReadLetter],
    notes: Iterable[Redriven],
    names: Names,
    *,
    again: bool,
) -> RedrivePlan:
    """Decide which letters to send again.

    Args:
        chosen: the selected letters of one model, in the topic's order.
        everything: all letters of that dead topic, including redrives that died again.
        notes: all notes of that dead topic.
        names: the fleet's; nothing is sent to a topic that is not the model's.
        again: include letters that were sent again since they died.
    """
    redriven = _last_notes(notes)
    numbers = {root: note.number for root, note in redriven.items()}
    newest: dict[str, ReadLetter] = {}
    for letter in everything:
        numbers[letter.root_ref] = max(numbers.get(letter.root_ref, 0), letter.root[1])
        newest[letter.root_ref] = letter
    redrives: list[Redrive] = []
    skipped: list[Skipped] = []
    for letter in chosen:
        root = letter.root_ref
        note = redriven.get(root)
        if newest.get(root, letter) is not letter:
            skipped.append(Skipped(letter, f"died again later, at {newest[root].place}: that letter counts"))
        elif note is not None and not again and _is_after(note, letter):
            skipped.append(Skipped(letter, f"was sent again as {note.id}; --again sends it once more"))
        elif why := _why_not(letter, names):
            skipped.append(Skipped(letter, why))
        else:
            _choose(letter, numbers.get(root, 0) + 1, redrives, skipped)
    return RedrivePlan(tuple(redrives), tuple(skipped))


def _choose(letter: ReadLetter, number: int, redrives: list[Redrive], skipped: list[Skipped]) -> None:
    name = f"{letter.root[0]}~r{number}"
    if len(name) > MAX_ID:
        skipped.append(Skipped(letter, f"its id leaves no room for ~r{number}: an id has at most {MAX_ID} characters"))
    else:
        redrives.append(Redrive(letter, name))


def _last_notes(notes: Iterable[Redriven]) -> dict[str, Redriven]:
    last: dict[str, Redriven] = {}
    for note in notes:
        if note.root_ref not in last or note.number >= last[note.root_ref].number:
            last[note.root_ref] = note
    return last


def _is_after(note: Redriven, letter: ReadLetter) -> bool:
    """Whether the note was written after the letter; times are compared only across partitions."""
    if note.partition == letter.partition:
        return note.offset > letter.offset
    return note.at >= letter.dead_lettered_at


def _why_not(letter: ReadLetter, names: Names) -> str:
    if letter.reason == DeadReason.LOST:
        return "is a note that records were deleted unread: there is nothing to send"
    if letter.left_out:
        return f"has only the evidence: {letter.left_out} were too large to keep"
    if not letter.topic:
        return "does not name its original topic"
    if letter.version(names) is None:
        return f"names {letter.topic[:100]!r}, which is not a topic of model {letter.model}"
    return ""


def due(number: int, rate: float, started: float) -> float:
    """When the record of this number (from 0) may be sent, at `rate` records per second; `rate` 0 is no limit."""
    return started + number / rate if rate > 0 else started
