"""The requests of one connection of the HTTP fuzzer: they depend only on a seed and a number, so a failing one can be repeated."""

from __future__ import annotations

import dataclasses
import enum
import random
from typing import Final

from tests.bad_input.attacks import attack, refused
from tests.bad_input.hostile import noise
from tests.bad_input.requests import (
    ANY,
    ECHO,
    LATER,
    OK,
    Asked,
    echo_body,
    farewell,
    head,
    keyed_twice,
    many_body,
    post,
    right,
)

ACCEPTED: Final = frozenset({202})


class Manner(enum.Enum):
    """How a client behaves."""

    POLITE = "reads everything"
    NOISY = "ends with bytes that are not a request, and stops sending"
    HALF_CLOSED = "stops sending before it has its answers"
    LEAVING = "leaves in the middle"
    DEAF = "never reads"


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """Requests that are sent together.

    Attributes:
        asked: the requests, in order.
        cuts: how many pieces they are sent in, with `pause` seconds between.
        tail: bytes after them that are not a request.
    """

    asked: tuple[Asked, ...]
    cuts: int = 1
    pause: float = 0.0
    tail: bytes = b""

    @property
    def data(self) -> bytes:
        """All of it."""
        return b"".join([one.data for one in self.asked]) + self.tail


@dataclasses.dataclass(frozen=True, slots=True)
class Dialogue:
    """One connection from its beginning to its end.

    Attributes:
        number: determines it, together with the seed.
        acts: each is sent when the one before it is answered.
        manner: how the client behaves.
        patience: seconds until a client that leaves, or never reads, disconnects.
    """

    number: int
    acts: tuple[Act, ...]
    manner: Manner = Manner.POLITE
    patience: float = 0.0

    @property
    def requests(self) -> int:
        """The number of its requests."""
        return sum(len(act.asked) + bool(act.tail) for act in self.acts)


def dialogue(seed: int, number: int) -> Dialogue:
    """The dialogue of this number."""
    dice = random.Random(f"{seed} {number}")
    label = f"n{number}-"
    chosen = dice.randrange(1000)
    if chosen < 380:
        return Dialogue(number, (Act((*_rights(label, dice, 8, 60), farewell(label, dice))),))
    if chosen < 680:
        return Dialogue(number, (Act(_mixed(label, dice)),))
    if chosen < 920:
        before = tuple(_rights(label, dice, 0, 4))
        return Dialogue(number, (Act(before, tail=noise(dice)),), Manner.NOISY)
    return _special(number, label, dice)


def _rights(label: str, dice: random.Random, low: int, high: int) -> list[Asked]:
    return [right(f"{label}{place}", dice) for place in range(dice.randrange(low, high))]


def _mixed(label: str, dice: random.Random) -> tuple[Asked, ...]:
    """Valid requests, refused ones between them, and attacks."""
    asked = _rights(label, dice, 4, 30)
    for place in range(dice.randrange(1, 4)):
        asked.insert(dice.randrange(len(asked) + 1), refused(f"{label}r{place}", dice))
    asked += [attack(f"{label}a{place}", dice) for place in range(dice.randrange(1, 4))]
    return (*asked, *_rights(f"{label}b", dice, 0, 3), farewell(label, dice))


def _special(number: int, label: str, dice: random.Random) -> Dialogue:
    bye = farewell(label, dice)
    match dice.randrange(11):
        case 0:
            return Dialogue(number, (Act((*keyed_twice(label, dice), bye)),))
        case 1 | 2:
            return _asynchronous(number, label, dice)
        case 3:
            return Dialogue(number, (Act((right(label + "s", dice), bye), cuts=dice.randrange(2, 20), pause=0.02),))
        case 4 | 5:
            asked = tuple(_rights(label, dice, 2, 12))
            return Dialogue(number, (Act(asked),), Manner.HALF_CLOSED)
        case 6 | 10:
            return _deaf(number, label, dice)
        case 7:
            return Dialogue(number, (Act((_old(label, dice),)),))
        case _:
            return _leaving(number, label, dice)


def _asynchronous(number: int, label: str, dice: random.Random) -> Dialogue:
    """Accepted, and fetched by its handle or by its id; some cancel, some abandon a long poll."""
    body, check = echo_body(label, dice)
    path = dice.choice((ECHO, LATER))
    key = [b"idempotency-key: " + label.encode()] if dice.randrange(2) else []
    accept = Asked("respond-async", post(path, body, b"prefer: respond-async", *key), ACCEPTED, honest=True)
    where = dice.choice((b"@LOCATION@", b"/v2/requests/@ID@"))
    if dice.randrange(3) == 0:
        poll = Asked("an abandoned long poll", head("GET", where + b"?wait_s=30"), OK)
        return Dialogue(number, (Act((accept,)), Act((poll,))), Manner.LEAVING, dice.choice((0.0, 0.01, 0.1)))
    poll = Asked("a long poll", head("GET", where + b"?wait_s=20"), OK, check, honest=True)
    return Dialogue(number, (Act((accept,)), Act((poll, poll, farewell(label, dice)))))


def _deaf(number: int, label: str, dice: random.Random) -> Dialogue:
    """Requests large answers, and never reads them."""
    body, check = many_body(label, dice.choice((1000, 20_000, 100_000)))
    field, version = dice.choice(((b"x: y", b"HTTP/1.1"), (b"connection: close", b"HTTP/1.1"), (b"x: y", b"HTTP/1.0")))
    asked = [
        Asked("never read", post(ANY, body, field, version=version), OK, check) for _ in range(dice.choice((1, 3, 20)))
    ]
    return Dialogue(number, (Act(tuple(asked)),), Manner.DEAF, dice.choice((0.1, 1.0, 3.0)))


def _old(label: str, dice: random.Random) -> Asked:
    body, check = echo_body(label, dice)
    return Asked("HTTP/1.0", post(ECHO, body, version=b"HTTP/1.0"), OK, check, may_end=True, honest=True)


def _leaving(number: int, label: str, dice: random.Random) -> Dialogue:
    """Cut off anywhere, or disconnected before the answers."""
    asked = [*_rights(label, dice, 1, 6), attack(label, dice)]
    data = b"".join(one.data for one in asked)
    if dice.randrange(2):
        data = data[: dice.randrange(1, len(data))]
    return Dialogue(number, (Act((), tail=data),), Manner.LEAVING, dice.choice((0.0, 0.0, 0.01, 0.2)))
