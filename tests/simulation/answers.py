"""The answers on a topic of results as an outside observer reads them: each is there before its record is committed, and
repetitions have the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protocol.answers import decode_answer
from protocol.errors import RETRYABLE
from protocol.naming import Names
from protocol.ports import Record

NAMES = Names("sim")
RESULTS = NAMES.results_topic("job")
REPLY_TO = ("reply-to", NAMES.reply_to_topic("job").encode())


def wants_answer(record: Record) -> bool:
    """Whether the record's answer goes to the topic."""
    return REPLY_TO in record.headers


class Answers:
    """Notes and judges.

    Attributes:
        repeated: how many answers came once more.
    """

    def __init__(self, broken: Callable[[str, str], None]) -> None:
        self.repeated = 0
        self._broken = broken
        self._last: dict[str, Record] = {}
        self._forgotten: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the topic has an answer for this ref."""
        return name in self._last

    def store_lost_data(self) -> None:
        """What is answered again may differ."""
        self._forgotten.update(self._last)

    def appended(self, records: Sequence[Record]) -> None:
        """These were appended to the log."""
        for record in records:
            if record.topic == RESULTS:
                self._note(record)

    def _note(self, record: Record) -> None:
        name = (record.key or b"").decode()
        before, self._last[name] = self._last.get(name), record
        if before is None:
            return
        self.repeated += 1
        same = (bytes(before.value), list(before.headers)) == (bytes(record.value), list(record.headers))
        if not same and name not in self._forgotten and not (_is_retriable(before) or _is_retriable(record)):
            self._broken("I2", f"the topic has two different answers for {name}")


def _is_retriable(record: Record) -> bool:
    failure = decode_answer(record)[1].failure
    return failure is not None and failure.code in RETRYABLE
