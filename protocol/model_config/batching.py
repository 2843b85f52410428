"""Dynamic batching and queue policies of a model's configuration. Pure.

Invariant: seconds as float inside, microseconds in documents.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.model_config.document import MAX_INT32, MAX_UINT32, MAX_UINT64, Document

MICROSECONDS: Final = 1_000_000
MAX_MICROSECONDS: Final = 2**50
"""36 years: a float of seconds represents every whole number of microseconds up to here."""


class TimeoutAction(enum.StrEnum):
    """What happens to a request whose queue timeout has passed."""

    REJECT = "REJECT"
    DELAY = "DELAY"


@dataclasses.dataclass(frozen=True, slots=True)
class QueuePolicy:
    """What happens to a request that waits too long or finds the queue full.

    Attributes:
        timeout_action: refuse it, or serve it after those in time.
        default_timeout: seconds in the queue; 0 is none.
        allow_timeout_override: whether a request's own shorter timeout counts.
        max_queue_size: requests per priority level; 0 is unbounded.
    """

    timeout_action: TimeoutAction = TimeoutAction.REJECT
    default_timeout: float = 0.0
    allow_timeout_override: bool = False
    max_queue_size: int = 0

    @classmethod
    def of(cls, document: Document | None) -> QueuePolicy:
        """Read a queue policy; without one, no timeout and no bound."""
        if document is None:
            return cls()
        return cls(
            timeout_action=TimeoutAction(document.choice("timeout_action", tuple(TimeoutAction))),
            default_timeout=_seconds(document, "default_timeout_microseconds"),
            allow_timeout_override=document.flag("allow_timeout_override"),
            max_queue_size=document.integer("max_queue_size", 0, MAX_UINT32),
        )

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelQueuePolicy`."""
        return {
            "timeout_action": self.timeout_action.value,
            "default_timeout_microseconds": _microseconds(self.default_timeout),
            "allow_timeout_override": self.allow_timeout_override,
            "max_queue_size": self.max_queue_size,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class DynamicBatching:
    """How requests are combined into batches. Priority 1 is the highest.

    Attributes:
        preferred_batch_sizes: rows at which a batch is released at once.
        max_queue_delay: seconds that the oldest request may wait for others.
        preserve_ordering: whether answers leave in the order of the requests.
        priority_levels: how many; 0 means no priorities.
        default_priority_level: of requests without a priority; 0 only without levels.
        default_queue_policy: of levels without their own policy.
        priority_queue_policies: by level.
    """

    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay: float = 0.0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policies: dict[int, QueuePolicy] = dataclasses.field(default_factory=dict)

    def queue_policy(self, level: int) -> QueuePolicy:
        """The policy of a priority level."""
        return self.priority_queue_policies.get(level, self.default_queue_policy)

    @classmethod
    def of(cls, document: Document) -> DynamicBatching:
        """Read a `dynamic_batching`."""
        policies = document.documents_by_key("priority_queue_policy")
        return cls(
            preferred_batch_sizes=document.integers("preferred_batch_size", -MAX_INT32, MAX_INT32),
            max_queue_delay=_seconds(document, "max_queue_delay_microseconds"),
            preserve_ordering=document.flag("preserve_ordering"),
            priority_levels=document.integer("priority_levels", 0, MAX_UINT64),
            default_priority_level=document.integer("default_priority_level", 0, MAX_UINT64),
            default_queue_policy=QueuePolicy.of(document.document("default_queue_policy")),
            priority_queue_policies={_level(key, policy): QueuePolicy.of(policy) for key, policy in policies.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `ModelDynamicBatching`."""
        policies = self.priority_queue_policies.items()
        document: dict[str, Any] = {
            "preferred_batch_size": list(self.preferred_batch_sizes),
            "max_queue_delay_microseconds": _microseconds(self.max_queue_delay),
            "preserve_ordering": self.preserve_ordering,
            "priority_levels": self.priority_levels,
            "default_priority_level": self.default_priority_level,
            "priority_queue_policy": {str(level): policy.to_json() for level, policy in policies},
        }
        if self.default_queue_policy != QueuePolicy():
            document["default_queue_policy"] = self.default_queue_policy.to_json()
        return document


def _seconds(document: Document, key: str) -> float:
    return document.integer(key, 0, MAX_MICROSECONDS) / MICROSECONDS


def _microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS)


def _level(key: str, policy: Document) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 20):
        raise ConfigError(f"'{policy.path}': a priority level must be a positive integer")
    return int(key)
