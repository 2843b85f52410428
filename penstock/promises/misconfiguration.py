"""A setting that breaks a promise. Pure."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Misconfiguration:
    """One setting that makes a promise untrue, or true only of less than one would think.

    Attributes:
        promise: its name in docs/guarantees.md, `I1` to `I12`.
        setting: its name, as Kafka's or Redis' documentation has it.
        value: what it is.
        wanted: what it should be.
        why: what happens otherwise.
        command: that mends it.
        where: the topics or brokers that have it; "" for the server itself.
        severe: the fleet does not work at all.
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
        fact = f"{self.promise}: {self.setting}{where} is {self.value}, wanted is {self.wanted}"
        return f"{fact}: {self.why}. Mend it: {self.command}"


def number(text: str | None, default: int) -> int:
    """A setting that is a whole number; the default where it is not there or is none."""
    try:
        return int(text or "")
    except ValueError:
        return default
