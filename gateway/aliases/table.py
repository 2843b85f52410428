"""The routes of all models' aliases, from the records of the control topic. Pure.

Invariants: the record of a model that was read last counts, whole: a switch is one step; one that cannot be read changes nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Mapping

from gateway.aliases import choice, routes
from protocol.control import ALIASES, AliasRoute, ModelAliases, decode_aliases
from protocol.errors import FleetError
from protocol.ports import Record


@dataclasses.dataclass(frozen=True, slots=True)
class Redirect:
    """What a name stands for.

    Attributes:
        name: as the caller wrote it.
        model: its model.
        alias: "" for calls without a version.
    """

    name: str
    model: str
    alias: str
    route: AliasRoute


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A model's aliases as read.

    Attributes:
        generation: the offset of the record.
        replaced: what it replaced; None for nothing. Without its own `replaced`, so that no chain is kept.
    """

    entry: ModelAliases
    generation: int
    replaced: Held | None = None


class AliasTable:
    """All aliases.

    Args:
        dice: chooses among weighted versions.
    """

    __slots__ = ("_dice", "_held")

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random(0)  # noqa: S311  # decides no secret
        self._held: dict[str, Held] = {}

    def apply(self, record: Record) -> None:
        """Apply a record whose key begins with `ALIASES`; an empty value forgets the model's aliases.

        Raises:
            FleetError: it cannot be read; nothing has changed.
        """
        model = (record.key or b"").decode(errors="replace").removeprefix(ALIASES)
        known = self._held.get(model)
        if known is not None and record.offset < known.generation:
            return  # the topic is read again from its start
        if not len(record.value):
            self._held.pop(model, None)
            return
        entry = decode_aliases(record.value)
        if entry.model != model:
            raise FleetError(f"the record of key '{ALIASES}{model}' has the aliases of another model")
        for route in entry.routes.values():
            routes.check(route)
        before = None if known is None else dataclasses.replace(known, replaced=None)
        self._held[model] = Held(entry, record.offset, before)

    def held(self, model: str) -> Held | None:
        """A model's aliases, if it has any or has had some."""
        return self._held.get(model)

    def routes(self, model: str) -> Mapping[str, AliasRoute]:
        """A model's routes by alias."""
        held = self._held.get(model)
        return held.entry.routes if held is not None else {}

    def models(self) -> list[str]:
        """Every model with aliases, by name."""
        return sorted([model for model, held in self._held.items() if held.entry.routes])

    def named(self, name: str) -> Redirect | None:
        """What a name such as `m@prod` stands for; None if there is no such alias."""
        parts = routes.split(name)
        if parts is None:
            return None
        model, alias = parts
        route = self.routes(model).get(alias)
        return None if route is None else Redirect(name, model, alias, route)

    def default(self, model: str) -> Redirect | None:
        """The route of calls that name no version; None without one."""
        route = self.routes(model).get("") if self._held else None
        return None if route is None else Redirect(model, model, "", route)

    def choose(self, redirect: Redirect, ready: Collection[str], key: str = "") -> str:
        """The version that a call gets; "" if none of the route's is ready.

        Args:
            redirect: of its name.
            ready: versions that take calls.
            key: its `Idempotency-Key` with its caller; "" without one.
        """
        weights = redirect.route.weights
        if key:
            return choice.keyed(weights, ready, f"{redirect.model}\n{redirect.alias}\n{key}")
        return choice.drawn(weights, ready, self._dice.random())
