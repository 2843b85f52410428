"""Dead letters as an outside observer reads them: which are allowed (I7, I8), and the notes of records deleted unread (I12)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from protocol.dead_letter import MAX_ATTEMPTS
from protocol.naming import ref
from protocol.ports import Record

Place = tuple[str, int, int]

_LOST: Final = re.compile(rb"(\d+) records of (.+)-(\d+) from offset (\d+)")


class Letters:
    """Notes and judges.

    Attributes:
        begun: by ref, the workers (`context.runner_name`) that began it, as noted in the store.
        died: names of workers' processes that did not end on their own, or were considered dead.
        deaths: number of children that died, by the refs in them.
        poison: refs of requests that kill or hang their instance.
        garbage: values that are not requests.
        given_up: refs of innocent requests that were running in as many deaths as a request may be.
        unread: records that retention deleted before they had a terminal answer.
    """

    def __init__(self, broken: Callable[[str, str], None]) -> None:
        self.begun: dict[str, set[str]] = {}
        self.died: set[str] = set()
        self.deaths: dict[str, int] = {}
        self.poison: set[str] = set()
        self.garbage: set[bytes] = set()
        self.given_up: set[str] = set()
        self.unread: list[Record] = []
        self._broken = broken
        self._records: dict[Place, list[Record]] = {}
        self._given_up: set[Place] = set()
        self._names: set[str] = set()
        self._lost: list[tuple[str, int, range]] = []

    def has(self, record: Record) -> bool:
        """Whether this record has a letter."""
        return place_of(record) in self._given_up

    def appended(self, records: Sequence[Record]) -> None:
        """These were appended to the log."""
        for record in records:
            reason = dict(record.headers).get("dead-reason")
            if reason is None:
                self._records.setdefault(place_of(record), []).append(record)
            elif reason == b"lost":
                self._note_loss(record)
            else:
                self._judge(record, reason.decode())

    def answered(self, name: str) -> None:
        """The request has a final answer."""
        if name in self.poison and name not in self._names:
            self._broken("I7", f"{name} ended its instances, and is answered before it is in the dead letters")

    def told_lost(self, record: Record) -> bool:
        """Whether a note says that the record was deleted unread."""
        return any(
            record.offset in offsets
            for topic, partition, offsets in self._lost
            if (topic, partition) == (record.topic, record.partition)
        )

    def deaths_of(self, name: str) -> int:
        """How many workers and children died while the request was running.

        As docs/guarantees.md says of I7, a worker also counts if it lost the partition to another one while its batch ran; but only
        if a process died, and never the worker that gives the request up.
        """
        begun = self.begun.get(name, set())
        died = sum(runner.rpartition("/")[2] in self.died for runner in begun)
        return self.deaths.get(name, 0) + (max(died, len(begun) - 1) if died else 0)

    def _note_loss(self, letter: Record) -> None:
        found = _LOST.match(dict(letter.headers)["dead-error"])
        assert found is not None
        count, topic, partition, first = found.groups()
        self._lost.append((topic.decode(), int(partition), range(int(first), int(first) + int(count))))

    def _judge(self, letter: Record, reason: str) -> None:
        fields = dict(letter.headers)
        place = (fields["dead-topic"].decode(), int(fields["dead-partition"]), int(fields["dead-offset"]))
        self._given_up.add(place)
        original = next((record for record in self._records.get(place, ()) if _is_copy(letter, record)), None)
        if original is None:
            self._broken("I7", f"the letter of {place} is not its record, byte for byte")
            return
        name = name_of(original)
        self._names.add(name)
        if reason == "undecodable":
            if original.value not in self.garbage:
                self._broken("I8", f"{name} is a request, and a dead letter as undecodable")
        elif name not in self.poison:
            if self.deaths_of(name) < MAX_ATTEMPTS:
                self._broken("I8", f"{name} is a dead letter ({reason}) after {self.deaths_of(name)} deaths")
            self.given_up.add(name)


def place_of(record: Record) -> Place:
    return record.topic, record.partition, record.offset


def _is_copy(letter: Record, record: Record) -> bool:
    own = list(letter.headers)[: len(record.headers)]
    return (letter.value, letter.key, own) == (record.value, record.key, list(record.headers))


def name_of(record: Record) -> str:
    """The ref of a record, as protocol/README.md defines it."""
    fields = dict(record.headers)
    try:
        name = fields.get("id", b"").decode()
        principal = fields.get("principal", b"-").decode()
    except UnicodeDecodeError:
        return ""
    if not name:
        name = f"{record.topic}-{record.partition}-{record.offset}-{round(record.timestamp * 1000)}"
    return ref(principal, name)
