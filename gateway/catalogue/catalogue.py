"""Every announced model version, and the one that a call means. Fed from the catalogue topic; aliases are `gateway.aliases`'. Pure.

Invariants: the announcement of a model version that was read last counts; one that cannot be decoded makes its version unavailable,
with the reason, and affects no other.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.aliases import choice, routes
from gateway.aliases.table import AliasTable, Redirect
from gateway.catalogue.request_checks import RequestCheck
from gateway.counters import Counters
from protocol.control import AliasRoute
from protocol.errors import FleetError, InvalidArgument, NotFound, Unavailable, quoted
from protocol.heartbeat_codec import SECRET_KEY, decode_announcement
from protocol.heartbeat_parts import facts_of
from protocol.messages import SHOWN_DIGEST, Announcement, Heartbeat, Lane, ModelLoad, ModelState
from protocol.model_config import ModelConfig
from protocol.naming import Names
from protocol.ports import Record
from protocol.request_check import MAX_BATCH_LANE_ROWS
from protocol.suggestions import did_you_mean

_MAX_RESOLVED: Final = 4096


@dataclasses.dataclass(slots=True, eq=False)
class RequestQueue:
    """One lane of a model version.

    Attributes:
        topic: its requests are published there.
        check: validates them.
        batches: whether the first dimension of inputs counts rows.
        shadow: the route whose shadow version gets a copy of its calls; None for none.
    """

    model: str
    version: str
    lane: Lane
    topic: str
    check: RequestCheck
    batches: bool
    shadow: AliasRoute | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(slots=True, eq=False)
class Served(RequestQueue):
    """One announced model version, and its interactive lane.

    Attributes:
        config: its completed configuration; empty if the announced one cannot be read, and the version is then UNAVAILABLE.
        batch: its batch lane.
        partitions: of its interactive topic, as announced.
        labels: by output, the names of its classes, as announced.
        workers: live workers that had it ready at the last heartbeat check.
        digests: of the files that these workers serve; with more than one, answers may come from any of them.
        unready: why none of these workers has it ready for callers who ask; "" if one has. Calls are taken all the same.
        counters: for the metrics.
    """

    state: ModelState
    reason: str
    config: ModelConfig
    counters: Counters
    batch: RequestQueue
    partitions: int = 1
    labels: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    workers: int = 0
    digests: frozenset[str] = frozenset()
    unready: str = ""

    @property
    def mixed(self) -> str:
        """The problem if live workers serve different files under this version, else ""."""
        if len(self.digests) < 2:
            return ""
        shown = ", ".join(sorted(digest[:SHOWN_DIGEST] for digest in self.digests))
        return f"live workers serve different files under this version ({shown}); give them the same files, or another version"

    @property
    def ready(self) -> bool:
        """Whether it takes calls."""
        return self.state is ModelState.READY


class Catalogue:
    """All announced model versions.

    Attributes:
        sleeping: whether a model was evicted and is loaded again for a call; set by `repository`.
        suggests: whether an unknown model's error names a similar one: not where some callers may not list the models.
    """

    __slots__ = (
        "_aliases",
        "_counters",
        "_live",
        "_models",
        "_names",
        "_resolved",
        "_shadowed",
        "sleeping",
        "suggests",
    )

    def __init__(
        self, names: Names, counters: dict[tuple[str, str], Counters], aliases: AliasTable | None = None
    ) -> None:
        self._names = names
        self._aliases = aliases or AliasTable()
        self._shadowed: dict[tuple[str, str, AliasRoute], Served] = {}
        self._models: dict[str, dict[str, Served]] = {}
        self._resolved: dict[tuple[str, str], Served] = {}
        self._counters = counters
        self._live: list[Sequence[ModelLoad]] | None = None
        self.sleeping: Callable[[str], bool] = lambda model: False
        self.suggests = True

    def apply(self, records: Iterable[Record]) -> list[str]:
        """Apply records of the catalogue topic; returns a problem per record that cannot be decoded."""
        problems: list[str] = []
        for record in records:
            if record.key == SECRET_KEY:
                continue
            if not len(record.value):
                self._forget((record.key or b"").decode(errors="replace"))
                continue
            try:
                self.announce(decode_announcement(record.value))
            except FleetError as error:
                problems.append(f"{record.topic} offset {record.offset}: {error.message}")
        return problems

    def announce(self, entry: Announcement) -> None:
        """Apply one announcement.

        Raises:
            InvalidArgument: its model or version makes no topic name.
        """
        topic = self._names.infer_topic(entry.model, entry.version)
        batch_topic = self._names.batch_topic(entry.model, entry.version)
        state, reason = entry.state, entry.reason
        try:
            config = ModelConfig.from_json(entry.config)
        except FleetError as error:
            config = ModelConfig(name=entry.model)
            if state is not ModelState.UNAVAILABLE:
                state, reason = ModelState.UNAVAILABLE, f"this gateway cannot read its configuration: {error.message}"
        key = (entry.model, entry.version)
        counters = self._counters.setdefault(key, Counters())
        batch_check = RequestCheck(config, max(MAX_BATCH_LANE_ROWS, config.max_batch_size))
        served = Served(
            *key, Lane.INTERACTIVE, topic, RequestCheck(config), config.batching, state, reason, config, counters,
            RequestQueue(*key, Lane.BATCH, batch_topic, batch_check, config.batching), max(1, entry.partitions),
            entry.labels,
        )  # fmt: skip
        versions = self._models.setdefault(entry.model, {})
        known = versions.get(entry.version)
        if known is not None:
            served.workers, served.digests, served.unready = known.workers, known.digests, known.unready
        else:
            self._live = None
        versions[entry.version] = served
        self._resolved.clear()
        self._shadowed.clear()

    def redirected(self) -> None:
        """Aliases have changed."""
        self._resolved.clear()
        self._shadowed.clear()

    def resolve(self, model: str, version: str = "") -> Served:
        """The ready version that describes what a call means: the named one, the first by weight of an alias, else the highest.

        Raises:
            NotFound, Unavailable: with Triton's words.
            InvalidArgument: an alias and a version are named.
        """
        served = self._resolved.get((model, version))
        return served if served is not None else self._find(model, version, None)

    def pick(self, model: str, version: str = "", key: str = "") -> Served:
        """The ready version that a call goes to: as `resolve`, but by chance where an alias has several versions.

        Args:
            model: its name, or `<model>@<alias>`.
            version: "" for none.
            key: its `Idempotency-Key` with its caller, which always gets the same version of a route; "" without one.

        Raises:
            NotFound, Unavailable, InvalidArgument: as `resolve`.
        """
        served = self._resolved.get((model, version))
        return served if served is not None else self._find(model, version, key)

    def _find(self, model: str, version: str, key: str | None) -> Served:
        """Resolve; remember what is the same for all calls."""
        redirect = self._redirect(model, version)
        if redirect is None:
            served = self._resolve(model, version)
        else:
            served = self._routed(redirect, key)
            if len(redirect.route.weights) > 1:
                return served
        if len(self._resolved) >= _MAX_RESOLVED:
            self._resolved.clear()
        self._resolved[model, version] = served
        return served

    def _redirect(self, model: str, version: str) -> Redirect | None:
        """What the name stands for besides itself. A model's own name counts before an alias."""
        known = model in self._models
        if known:
            return None if version else self._aliases.default(model)
        redirect = self._aliases.named(model)
        if redirect is not None and version:
            raise InvalidArgument(
                f"model name {quoted(model)} names an alias: a call cannot name version {version} as well"
            )
        return redirect

    def _routed(self, redirect: Redirect, key: str | None) -> Served:
        """The version of a route, by weight (without a key argument) or chance; with its shadow, if it has one."""
        route = redirect.route
        versions = self._models.get(redirect.model, {})
        if not versions:
            raise self.unknown(redirect.name)
        ready = {version for version, served in versions.items() if served.ready}
        chosen = choice.primary(route.weights, ready) if key is None else self._aliases.choose(redirect, ready, key)
        if not chosen:
            named = ", ".join(version for version, _ in route.weights)
            raise Unavailable(
                f"Request for unknown model: '{redirect.name}' version {named} is not at ready state: no version of its alias "
                f"'{routes.spelled(redirect.alias)}' is"
            )
        served = versions[chosen]
        if not route.shadow or route.shadow == chosen:
            return served
        place = (redirect.model, chosen, route)
        shadowed = self._shadowed.get(place)
        if shadowed is None:
            batch = dataclasses.replace(served.batch, shadow=route)
            shadowed = self._shadowed[place] = dataclasses.replace(served, batch=batch, shadow=route)
        return shadowed

    def _resolve(self, model: str, version: str) -> Served:
        if not version:
            ready = [served for served in self.versions(model) if served.ready]
            if not ready:
                raise NotFound(f"Request for unknown model: '{model}' has no available versions")
            return ready[-1]
        served = self.get(model, version)
        if not served.ready:
            why = f": {served.reason}" if served.reason else ""
            raise Unavailable(f"Request for unknown model: '{model}' version {version} is not at ready state{why}")
        return served

    def awaits(self, model: str, version: str) -> bool:
        """Whether the model may still appear: it is unknown, loading, or loaded again for a call."""
        if self.sleeping(model):
            return True
        versions = self._versions(model) or {}
        if not version and (default := self._aliases.default(model)) is not None:
            versions = {number: versions[number] for number, _ in default.route.weights if number in versions}
        if version:
            served = versions.get(version) or versions.get(version.lstrip("0"))
            return served is None or served.state is ModelState.LOADING
        return not any(served.ready for served in versions.values()) and (
            not versions or any(served.state is ModelState.LOADING for served in versions.values())
        )

    def get(self, model: str, version: str) -> Served:
        """That version, in any state.

        Raises:
            NotFound: with Triton's words.
        """
        versions = self._models.get(model)
        if versions is None:
            raise self.unknown(model)
        served = versions.get(version) or versions.get(version.lstrip("0"))
        if served is None:
            raise NotFound(f"Request for unknown model: '{model}' version {version} is not found")
        return served

    def known(self, model: str) -> bool:
        """Whether there is such a model or alias, ready or not."""
        return model in self._models or self._aliases.named(model) is not None

    def is_model(self, name: str) -> bool:
        """Whether there is a model of this very name."""
        return name in self._models

    def versions(self, model: str) -> list[Served]:
        """All versions of a model, or those of an alias, ascending.

        Raises:
            NotFound: with Triton's words.
        """
        versions = self._versions(model)
        if versions is None:
            raise self.unknown(model)
        return sorted(versions.values(), key=lambda served: int(served.version))

    def _versions(self, name: str) -> dict[str, Served] | None:
        """The versions of a model, or those of an alias; None if there is no such model."""
        versions = self._models.get(name)
        redirect = self._aliases.named(name) if versions is None else None
        if redirect is None:
            return versions
        known = self._models.get(redirect.model)
        return None if known is None else {v: known[v] for v, _ in redirect.route.weights if v in known}

    def unknown(self, name: str) -> NotFound:
        """The error for a name that is no model's and no alias's, in Triton's words, with what may have been meant."""
        text = f"Request for unknown model: '{name}' is not found"
        parts = routes.split(name)
        if parts is not None and parts[0] in self._models:
            meant = did_you_mean(parts[1], self._aliases.routes(parts[0])) if self.suggests else ""
            return NotFound(f"{text}: model '{parts[0]}' has no alias '{routes.spelled(parts[1])}'{meant}")
        return NotFound(text + (did_you_mean(name, self._models) if self.suggests else ""))

    def all(self) -> list[Served]:
        """Every version of every model, by name and version."""
        return [served for model in sorted(self._models) for served in self.versions(model)]

    def index(self, *, ready_only: bool = False) -> list[dict[str, Any]]:
        """The repository index as Triton writes it."""
        entries: list[dict[str, Any]] = []
        for served in self.all():
            if ready_only and not served.ready:
                continue
            entry = {"name": served.model, "version": served.version, "state": served.state.value}
            if reason := served.reason or served.mixed:
                entry["reason"] = reason
            entries.append(entry)
        return entries

    def seen(self, heartbeats: Iterable[Heartbeat], since: float) -> list[Served]:
        """Count the live workers of every version: those with a heartbeat after `since` that are not draining.

        Returns:
            The versions whose workers serve different files, if that is new.
        """
        live = [facts_of(beat.models) for beat in heartbeats if beat.at >= since and not beat.draining]
        if self._live is not None and len(live) == len(self._live) and all(map(operator.is_, live, self._live)):
            return []
        self._live = live
        counts: dict[tuple[str, str], int] = {}
        digests: dict[tuple[str, str], set[str]] = {}
        unready: dict[tuple[str, str], list[str]] = {}
        for models in live:
            for load in models:
                if load.state is ModelState.READY:
                    key = (load.model, load.version)
                    counts[key] = counts.get(key, 0) + 1
                    unready.setdefault(key, []).append(load.unready)
                    if load.digest:
                        digests.setdefault(key, set()).add(load.digest)
        newly_mixed = []
        for served in self.all():
            key = (served.model, served.version)
            served.workers = counts.get(key, 0)
            reasons = unready.get(key, [""])
            served.unready = reasons[0] if all(reasons) else ""
            former, served.digests = served.digests, frozenset(digests.get(key, ()))
            served.counters.digests = len(served.digests)
            if served.mixed and served.digests != former:
                newly_mixed.append(served)
        if self._shadowed:  # they are copies
            self.redirected()
        return newly_mixed

    def _forget(self, key: str) -> None:
        model, _, version = key.rpartition("/")
        versions = self._models.get(model)
        if versions is not None and versions.pop(version, None) is not None:
            if not versions:
                del self._models[model]
            self._resolved.clear()
            self._shadowed.clear()
