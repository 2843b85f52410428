"""A setting that breaks a promise. Pure."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Misconfiguration:
    """One setting that breaks a promise, or limits it.

    Attributes:
        promise: its name in docs/guarantees.md, `I1` to `I12`.
        setting: its name in Kafka's or Redis' documentation.
        value: its value.
        wanted: the value that it should have.
        why: the consequence.
        command: the command that fixes it.
        where: the topics or brokers with this value; "" for the server itself.
        severe: whether the fleet cannot work with it.
    """

    promise: str
    setting: str
    value: str
    wanted: str
    why: str
    command: str
    where: str = ""
    severe: bool = False

    def __str__(self) -> str:
        where = f" of {self.where}" if self.where else ""
        fact = f"{self.promise}: {self.setting}{where} is {self.value}, should be {self.wanted}"
        return f"{fact}: {self.why}. To fix it: {self.command}"


def number(text: str | None, default: int) -> int:
    """An integer setting; the default if it is missing or not an integer."""
    try:
        return int(text or "")
    except ValueError:
        return default
