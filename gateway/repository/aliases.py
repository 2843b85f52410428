"""Sets, removes and rolls back the aliases of models.

Invariants: a switch is one record, hence one step on every gateway; a route is only written if its versions are ready. Two gateways
may change aliases of one model at once: whoever finds that its record replaced another than the one it was made from writes the
other's change again on top, so neither is lost.
"""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from gateway.aliases import routes
from gateway.aliases.routes import document, spelled
from gateway.aliases.table import Held
from gateway.calls.service import Service
from protocol.control import AliasRoute, ModelAliases, encode_aliases
from protocol.errors import InvalidArgument, NotFound, Unavailable
from protocol.messages import ANONYMOUS

_TRIES: Final = 8
_PAUSE: Final = 0.01
"""Seconds, at most, before the first repair of a change that ours has replaced; doubles with each."""

Routes = Mapping[str, AliasRoute]
Change = Callable[[ModelAliases], Routes]
"""From a model's aliases to its new routes."""

_log = structlog.get_logger("gateway.repository")


class AliasChanges:
    """Reads and changes aliases.

    Args:
        service: of this gateway.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._changing: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)

    def every(self) -> list[dict[str, Any]]:
        """The aliases of all models, as JSON documents."""
        return [self.of(model) for model in self._service.aliases.models()]

    def of(self, model: str) -> dict[str, Any]:
        """The aliases of a model, as a JSON document with the generation of its record.

        Raises:
            NotFound: there is neither such a model nor an alias of it.
        """
        held = self._service.aliases.held(model)
        if held is None:
            self._service.catalogue.versions(model)
            return {**document(ModelAliases(model, {})), "generation": -1}
        return {**document(held.entry), "generation": held.generation}

    def route(self, model: str, alias: str) -> AliasRoute:
        """The route of one alias.

        Raises:
            NotFound: there is no such alias.
        """
        route = self._service.aliases.routes(model).get(alias)
        if route is None:
            raise _missing(model, alias)
        return route

    async def set(self, model: str, changed: Routes, principal: str = ANONYMOUS) -> dict[str, Any]:
        """Set the routes of some aliases in one step; other aliases stay.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: a version is not ready, or the change could not be written.
            InvalidArgument: a model would have too many aliases.
        """
        for alias, route in changed.items():
            self._require_ready(model, alias, route)

        def change(entry: ModelAliases) -> Routes:
            merged = {**entry.routes, **changed}
            if len(merged) > routes.MAX_ALIASES:
                raise InvalidArgument(
                    f"model '{model}' would have {len(merged)} aliases; at most {routes.MAX_ALIASES} may be"
                )
            return merged

        return await self._change(model, change, principal)

    async def delete(self, model: str, alias: str, principal: str = ANONYMOUS) -> dict[str, Any]:
        """Remove an alias.

        Raises:
            NotFound: there is no such alias.
            Unavailable: the change could not be written.
        """
        self.route(model, alias)
        return await self._change(
            model, lambda entry: {name: route for name, route in entry.routes.items() if name != alias}, principal
        )

    async def rollback(self, model: str, principal: str = ANONYMOUS) -> dict[str, Any]:
        """Restore the routes before the last change; a second rollback undoes the first.

        Raises:
            NotFound: the model's aliases have never changed.
            Unavailable: a version of the former routes is not ready, or the change could not be written.
        """
        held = self._service.aliases.held(model)
        if held is None:
            raise NotFound(f"the aliases of model '{model}' have never changed: there is nothing to roll back")
        for alias, route in held.entry.previous.items():
            if held.entry.routes.get(alias) != route:
                self._require_ready(model, alias, route)
        return await self._change(model, lambda entry: entry.previous, principal)

    def _require_ready(self, model: str, alias: str, route: AliasRoute) -> None:
        catalogue = self._service.catalogue
        if not catalogue.is_model(model):
            raise catalogue.unknown(model)
        for version in dict.fromkeys([*[version for version, _ in route.weights], route.shadow]):
            if version and not (served := catalogue.get(model, version)).ready:
                raise Unavailable(
                    f"alias '{spelled(alias)}' of model '{model}' cannot name version {version}, which is {served.state}"
                    + (f" ({served.reason})" if served.reason else "")
                    + ": load it first",
                    retry_after=1.0,
                )

    async def _change(self, model: str, change: Change, principal: str) -> dict[str, Any]:
        """Write the changed routes; then, what another gateway had changed meanwhile and our record has replaced."""
        aliases = self._service.aliases
        async with self._changing[model]:
            base = aliases.held(model)
            generation = await self._write(model, change(_entry(model, base)), principal)
            for attempt in range(_TRIES):
                after = aliases.held(model)
                if generation is None or after is None or after.generation != generation:
                    break
                lost = _difference(_entry(model, base), _entry(model, after.replaced))
                if not lost:
                    break
                await asyncio.sleep(random.uniform(0, _PAUSE * 2**attempt))  # noqa: S311  # so that gateways take turns
                base = aliases.held(model)
                generation = await self._write(model, _applied(_entry(model, base).routes, lost), principal)
        return self.of(model)

    async def _write(self, model: str, new: Routes, principal: str) -> int | None:
        """Write one record on top of the current one; returns its generation, None if it would change nothing."""
        service = self._service
        former = _entry(model, service.aliases.held(model)).routes
        if new == former:
            return None
        entry = ModelAliases(model, dict(new), former, service.clock(), principal)
        generation = await service.control.write(*encode_aliases(entry))
        _log.info("aliases changed", model=model, by=principal, generation=generation)
        return generation


def _entry(model: str, held: Held | None) -> ModelAliases:
    return held.entry if held is not None else ModelAliases(model, {})


def _difference(old: ModelAliases, new: ModelAliases) -> dict[str, AliasRoute | None]:
    """The routes that differ, by alias; None for one that was removed."""
    return {
        alias: new.routes.get(alias)
        for alias in {*old.routes, *new.routes}
        if old.routes.get(alias) != new.routes.get(alias)
    }


def _applied(routes_by_alias: Routes, changes: Mapping[str, AliasRoute | None]) -> Routes:
    merged = {**routes_by_alias, **changes}
    return {alias: route for alias, route in merged.items() if route is not None}


def _missing(model: str, alias: str) -> NotFound:
    return NotFound(f"model '{model}' has no alias '{spelled(alias)}'")
