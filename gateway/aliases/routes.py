"""The spelling of aliases, and their routes as JSON. Pure.

    {"versions": {"3": 90, "4": 10}, "shadow": {"version": "4", "share": 0.1}}

Invariant: a route that was parsed or checked here has 1 to `MAX_VERSIONS` different versions, each with a positive weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from protocol.control import AliasRoute, ModelAliases
from protocol.errors import InvalidArgument, quoted

SEPARATOR: Final = "@"
DEFAULT: Final = "default"
"""How callers, URLs and the command line spell the alias "" of calls without a version."""
MAX_VERSIONS: Final = 16
MAX_ALIASES: Final = 64
"""Aliases of one model."""
MAX_WEIGHT: Final = 1_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_VERSION: Final = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_FIELDS: Final = frozenset({"versions", "shadow"})
_SHADOW_FIELDS: Final = frozenset({"version", "share"})


def alias_of(spelled: str) -> str:
    """The alias that a caller spells so; "" for `default`.

    Raises:
        InvalidArgument: it is not 1 to 63 letters, digits, dots, dashes and underscores.
    """
    if not _NAME.match(spelled):
        raise InvalidArgument(
            f"alias {quoted(spelled)} must be 1 to 63 letters, digits, dots, dashes and underscores; the first is a letter or digit"
        )
    return "" if spelled == DEFAULT else spelled


def spelled(alias: str) -> str:
    """The inverse of `alias_of`."""
    return alias or DEFAULT


def split(name: str) -> tuple[str, str] | None:
    """(model, alias) of a name such as `m@prod`; None if it cannot be one."""
    model, at, alias = name.rpartition(SEPARATOR)
    if not at or not model or not _NAME.match(alias):
        return None
    return model, "" if alias == DEFAULT else alias


def parse_route(document: object) -> AliasRoute:
    """A route from its JSON document.

    Raises:
        InvalidArgument: naming the field that is wrong.
    """
    fields = _object(document, "the route", _FIELDS)
    versions = fields.get("versions")
    if not isinstance(versions, dict) or not versions:
        raise InvalidArgument('a route needs \'versions\', an object of weights by version, such as {"3": 90, "4": 10}')
    shadow, share = "", 1.0
    if fields.get("shadow") is not None:
        given = _object(fields["shadow"], "'shadow'", _SHADOW_FIELDS)
        shadow, share = _version(given.get("version"), "the shadow's 'version'"), given.get("share", 1.0)
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise InvalidArgument(f"the shadow's 'share' must be a number of 0 to 1, not {quoted(share)}")
    weights = tuple((_version(version, "a key of 'versions'"), weight) for version, weight in versions.items())
    return check(AliasRoute(weights, shadow, float(share)))


def check(route: AliasRoute) -> AliasRoute:
    """The route itself, if it is valid.

    Raises:
        InvalidArgument: naming what is wrong.
    """
    if not 1 <= len(route.weights) <= MAX_VERSIONS:
        raise InvalidArgument(f"a route has 1 to {MAX_VERSIONS} versions, not {len(route.weights)}")
    for version, weight in route.weights:
        _version(version, "a version of the route")
        if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
            raise InvalidArgument(
                f"the weight of version {version} must be a whole number of 1 to {MAX_WEIGHT}, not {quoted(weight)}"
            )
    versions = [version for version, _ in route.weights]
    if len(set(versions)) < len(versions):
        raise InvalidArgument("a route names a version twice")
    if route.shadow:
        _version(route.shadow, "the shadow's 'version'")
        if route.shadow in versions and len(versions) == 1:
            raise InvalidArgument(f"version {route.shadow} gets all calls: it cannot be their shadow as well")
    if not 0.0 <= route.shadow_share <= 1.0:
        raise InvalidArgument(f"the shadow's 'share' must be a number of 0 to 1, not {quoted(route.shadow_share)}")
    return route


def route_document(route: AliasRoute) -> dict[str, Any]:
    """The inverse of `parse_route`."""
    document: dict[str, Any] = {"versions": dict(route.weights)}
    if route.shadow:
        document["shadow"] = {"version": route.shadow, "share": route.shadow_share}
    return document


def document(entry: ModelAliases) -> dict[str, Any]:
    """A model's aliases as JSON; `previous` are the routes that a rollback restores."""
    return {
        "model_name": entry.model,
        "aliases": _documents(entry.routes),
        "previous": _documents(entry.previous),
        "changed_at": entry.at,
        "changed_by": entry.by,
    }


def _documents(routes: Mapping[str, AliasRoute]) -> dict[str, Any]:
    return {spelled(alias): route_document(route) for alias, route in sorted(routes.items())}


def _object(value: object, what: str, fields: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} must be a JSON object, not {quoted(value)}")
    unknown = [name for name in value if name not in fields]
    if unknown:
        raise InvalidArgument(
            f"{what} has an unknown field {quoted(unknown[0])}; there are: {', '.join(sorted(fields))}"
        )
    return value


def _version(value: object, what: str) -> str:
    if not isinstance(value, str) or not _VERSION.match(value):
        raise InvalidArgument(f'{what} must be a version such as "3", not {quoted(value)}')
    return value
