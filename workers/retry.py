"""Retries calls of store and broker until they succeed. While a call of a model version is failing, its intake is paused.

Each model version has its own `Retry`: a dead topic that the worker may not write to stops only that model.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from protocol.errors import Unavailable

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclasses.dataclass(slots=True)
class Retry:
    """How long to wait between attempts, and whether any call is being retried now.

    Attributes:
        first, longest: seconds; the wait is random below a bound that doubles from `first` to `longest`.
        failing: calls that failed and have not succeeded yet.
        repeated: the failing calls, by kind.
        errors: of the last failed attempt, by kind of call.
        failures: attempts that have failed so far, by kind of call.
        on_recovered: called when the last failing call has succeeded.
    """

    first: float = 0.05
    longest: float = 2.0
    failing: int = 0
    repeated: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    on_recovered: list[Callable[[], None]] = dataclasses.field(default_factory=list)

    def fresh(self) -> Retry:
        """A `Retry` with the same waits and no failing calls."""
        return Retry(self.first, self.longest)

    def problem(self) -> str:
        """Which calls are failing, and why; "" for none."""
        return "; ".join(
            f"'{what}' fails and is retried: {self.errors.get(what, '')}"
            for what, count in self.repeated.items()
            if count
        )

    async def call(self, what: str, make: Callable[[], Awaitable[T]]) -> T:
        """The result of `make()`, called again and again while it raises.

        Not only after `Unavailable`: whatever the error, giving up a call that must succeed in the end would lose data.

        Args:
            what: names the call in the log.
            make: makes a fresh awaitable for every attempt; repeating it must be harmless.
        """
        try:
            return await make()
        except Exception as exc:
            self._note(what, exc)
        self.failing += 1
        self.repeated[what] += 1
        try:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(Exception),
                wait=wait_random_exponential(multiplier=self.first, max=self.longest),
                after=lambda state: self._note(what, _error(state)),
            )
            result: T = await retrying(_attempt, make)
        finally:
            self.failing -= 1
            self.repeated[what] -= 1
        log.info("recovered", call=what)
        if not self.failing:
            for listener in tuple(self.on_recovered):
                listener()
        return result

    def _note(self, what: str, error: BaseException | None) -> None:
        self.failures[what] += 1
        self.errors[what] = str(error) or repr(error)
        expected = isinstance(error, Unavailable)
        log.warning(
            "failed; it is retried until it succeeds",
            call=what,
            error=str(error),
            exc_info=None if expected else error,
        )


async def _attempt(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
