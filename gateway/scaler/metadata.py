"""What the metadata of a ScaledObject's trigger means. Pure.

Whoever may reach the port sends it: names and numbers are checked, and counted before they are kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

from gateway.scaling.wanted import MOST, TOLERANCE, Policy
from protocol.errors import InvalidArgument, quoted
from protocol.naming import encode_model

MAX_MODELS: Final = 1000
MAX_TEXT: Final = 64 * 1024
"""Characters of all models' names."""
KEDAS: Final = frozenset({"scalerAddress", "enableTLS", "unsafeSsl"})
"""Keys that mean something to KEDA alone, which sends them all the same."""
_SECONDS: Final = {
    "drainTargetSeconds": "target",
    "batchDrainTargetSeconds": "batch_target",
    "scaleDownWindowSeconds": "window",
    "coldStartSeconds": "cold_start",
}
_COUNTS: Final = {"minReplicas": "least", "maxReplicas": "most"}
KEYS: Final = ("models", *_SECONDS, *_COUNTS, "tolerance")
"""Keys that mean something here."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trigger:
    """What a trigger asks for.

    Attributes:
        models: that its workers serve, at least one.
        policy: of the group.
        tolerance: of the horizontal pod autoscaler.
    """

    models: frozenset[str]
    policy: Policy
    tolerance: float = TOLERANCE


def trigger_of(metadata: Mapping[str, str]) -> Trigger:
    """The meaning of a trigger's metadata.

    Raises:
        InvalidArgument: naming the key, and what it may be.
    """
    unknown = [key for key in metadata if key not in KEYS and key not in KEDAS]
    if unknown:
        raise InvalidArgument(
            f"scalerMetadata has no key {quoted(unknown[0])} here; there are {', '.join(KEYS)} (each as a text)"
        )
    values: dict[str, float] = {
        field: _number(key, metadata[key]) for key, field in _SECONDS.items() if metadata.get(key, "")
    }
    counts = {field: _count(key, metadata[key]) for key, field in _COUNTS.items() if metadata.get(key, "")}
    tolerance = _number("tolerance", metadata["tolerance"]) if metadata.get("tolerance", "") else TOLERANCE
    if not 0 <= tolerance < 1:
        raise InvalidArgument(f"scalerMetadata tolerance is {tolerance:g}; it is at least 0 and less than 1")
    most = counts.get("most", MOST)
    policy = Policy(
        **{"target": 10.0, "batch_target": 600.0, "window": 120.0, "cold_start": 60.0, **values},
        least=counts.get("least", 0),
        most=most,
    )
    return Trigger(_models(metadata.get("models", "")), policy, tolerance)


def _models(text: str) -> frozenset[str]:
    if len(text) > MAX_TEXT:
        raise InvalidArgument(f"scalerMetadata models has {len(text)} characters; at most {MAX_TEXT} may be")
    names = [name.strip() for name in text.split(",")]
    models = frozenset(name for name in names if name)
    if not models:
        raise InvalidArgument(
            "scalerMetadata lacks models: the names of the models that the workers serve, separated by commas"
        )
    if len(models) > MAX_MODELS:
        raise InvalidArgument(f"scalerMetadata names {len(models)} models; at most {MAX_MODELS} may share workers")
    for name in models:
        encode_model(name)
    return models


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise InvalidArgument(f"scalerMetadata {key} is {quoted(text)}; it must be a number, as a text, and at least 0")
    return number


def _count(key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise InvalidArgument(f"scalerMetadata {key} is {quoted(text)}; it must be a whole number, as a text")
    return int(text)
