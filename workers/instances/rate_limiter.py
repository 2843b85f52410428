"""Which waiting instance may run next, where runs take shared resources: Triton's `rate_limiter`. Pure.

Instances wait in the order of their turns. Each run adds the instance's priority to its turn, so of instances that always wait, one
of priority p gets 1/p of the runs of one of priority 1; an instance that was idle starts at the turn that is due now, and saves
nothing up.

Invariants: the resources of all runs never exceed what there is; an instance that waits is not passed by one of a later turn that
takes a resource it waits for, so none starves; an instance runs as soon as neither of these keeps it from it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from protocol.errors import ConfigError, quoted
from protocol.model_config import RateLimiter

EVERYWHERE: Final = -1
"""Instead of a device's number, for a resource that all devices of the worker share."""
MAX_AMOUNT: Final = 2**32 - 1

Pool = tuple[str, int]
"""A resource's name and its device, or `EVERYWHERE`."""


@dataclasses.dataclass(slots=True, eq=False)
class Contender:
    """One instance.

    Attributes:
        needs: what a run takes, by pool.
        priority: 1 or more; the turns between two of its runs.
        turn: when it is due, in turns.
        runs: it has its resources.
        order: of its arrival among those that wait.
    """

    needs: Mapping[Pool, int]
    priority: int
    turn: float = 0.0
    runs: bool = False
    order: int = 0


def contender(limiter: RateLimiter | None, device: int | None) -> Contender:
    """An instance of a group with this `rate_limiter`, on this device; the CPU's is 0, as in Triton."""
    limiter = limiter or RateLimiter()
    needs = {
        (resource.name, EVERYWHERE if resource.everywhere else device or 0): resource.count
        for resource in limiter.resources
        if resource.count
    }
    return Contender(needs, max(1, limiter.priority))


class ResourceTurns:
    """Decides for one worker.

    Args:
        stated: amounts by pool, of which a device's own count before those of its name alone (`EVERYWHERE`).
    """

    def __init__(self, stated: Mapping[Pool, int] | None = None) -> None:
        self._stated = dict(stated or {})
        self._members: list[Contender] = []
        self._waiting: list[Contender] = []
        self._taken: dict[Pool, int] = {}
        self._now = 0.0
        self._arrivals = itertools.count()

    def admit(self, members: Iterable[Contender], model: str) -> None:
        """Instances of a model that is being loaded.

        Raises:
            ConfigError: one needs more of a resource than there will ever be; none of them is admitted.
        """
        members = list(members)
        for member in members:
            for pool, count in member.needs.items():
                stated = self._stated_of(pool)
                if stated is not None and count > stated:
                    raise ConfigError(
                        f"Resource count for '{pool[0]}' is limited to {stated} which will prevent scheduling of one or more model "
                        f"instances, the minimum required count is {count} for {model}; raise it with --rate-limit-resource"
                    )
        self._members += members

    def remove(self, member: Contender) -> list[Contender]:
        """The instance is gone, whatever it was doing; returns those that may now start."""
        if member in self._members:
            self._members.remove(member)
        if member in self._waiting:
            self._waiting.remove(member)
        return self.end(member)

    def begin(self, member: Contender) -> list[Contender]:
        """The instance has something to run; returns the instances that may now start, this one among them or not."""
        self._queue(member)
        return self._grant()

    def end(self, member: Contender, *, more: bool = False) -> list[Contender]:
        """Its run is over, and there are more to run or not; returns the instances that may now start."""
        if member.runs:
            member.runs = False
            for pool, count in member.needs.items():
                self._taken[pool] -= count
        if more:  # before anyone is chosen: else one of many turns could never have two in a row
            self._queue(member)
        return self._grant()

    def _queue(self, member: Contender) -> None:
        member.turn = max(member.turn, self._now)
        member.order = next(self._arrivals)
        self._waiting.append(member)

    def amount(self, pool: Pool) -> int:
        """How much there is: as stated, else the most that one instance takes, as in Triton."""
        stated = self._stated_of(pool)
        return max((each.needs.get(pool, 0) for each in self._members), default=0) if stated is None else stated

    def free(self, pool: Pool) -> int:
        """How much no run takes."""
        return self.amount(pool) - self._taken.get(pool, 0)

    def _stated_of(self, pool: Pool) -> int | None:
        own = self._stated.get(pool)
        return self._stated.get((pool[0], EVERYWHERE)) if own is None else own

    def _grant(self) -> list[Contender]:
        """Go through those that wait by their turns; what an earlier one waits for is kept from the later."""
        granted = []
        kept: set[Pool] = set()
        for member in sorted(self._waiting, key=lambda each: (each.turn, each.order)):
            if kept.isdisjoint(member.needs) and all(self.free(pool) >= count for pool, count in member.needs.items()):
                self._run(member)
                granted.append(member)
            else:
                kept.update(member.needs)
        return granted

    def _run(self, member: Contender) -> None:
        self._waiting.remove(member)
        member.runs = True
        self._now = max(self._now, member.turn)
        member.turn += member.priority
        for pool, count in member.needs.items():
            self._taken[pool] = self._taken.get(pool, 0) + count


def parse_resources(texts: Sequence[str]) -> dict[Pool, int]:
    """Amounts from `--rate-limit-resource`: `name:count`, for every device and for global resources, or `name:count:device`.

    Raises:
        ConfigError: names the text that is neither.
    """
    amounts: dict[Pool, int] = {}
    for text in texts:
        name, _, rest = text.partition(":")
        count, _, device = rest.partition(":")
        numbers = [count, device or "0"]
        if not name or not all(part.isascii() and part.isdigit() and len(part) < 11 for part in numbers):
            raise ConfigError(
                f"rate_limit_resource {quoted(text)} must be name:count or name:count:device, for example R1:10 or R1:10:0"
            )
        if int(count) > MAX_AMOUNT:
            raise ConfigError(f"rate_limit_resource {quoted(text)}: the count must be at most {MAX_AMOUNT}")
        amounts[name, int(device) if device else EVERYWHERE] = int(count)
    return amounts
