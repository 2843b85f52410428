"""Groups of routes and methods that need a header of their own, as Triton's restricted API and protocols. Pure."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.errors import Code, ConfigError, FleetError, quoted

CATEGORIES: Final = (
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
)
"""Triton's names of the groups."""
GRPC_PREFIX: Final = "triton-grpc-protocol-"
"""gRPC metadata is named by this and the rule's key, as in Triton."""
_RULE: Final = re.compile(r"(?P<groups>[a-z,-]+):(?P<key>[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128})=(?P<value>[ -~]{1,1024})\Z")
_PATHS: Final = (
    ("health", re.compile(r"/v2/health/|/v2/models/.*/ready\Z")),
    ("shared-memory", re.compile(r"/v2/(?:system|cuda)sharedmemory\b")),
    ("model-repository", re.compile(r"/v2/repository\b")),
    ("trace", re.compile(r".*/trace/setting\Z")),
    ("logging", re.compile(r"/v2/logging\Z")),
    ("model-config", re.compile(r"/v2/models/.*/config\Z")),
    ("statistics", re.compile(r"/v2/models/(?:.*/)?stats\Z|/v2/fleet/")),
    ("inference", re.compile(r"/v2/models/.*/(?:infer|generate|generate_stream)\Z|/v2/requests/")),
)
_METHODS: Final = (
    ("inference", re.compile(r"ModelInfer|ModelStreamInfer")),
    ("health", re.compile(r"ServerLive|ServerReady|ModelReady|Check|Watch")),
    ("model-config", re.compile(r"ModelConfig")),
    ("statistics", re.compile(r"ModelStatistics")),
    ("model-repository", re.compile(r"Repository.*")),
    ("shared-memory", re.compile(r"(?:System|Cuda)SharedMemory.*")),
    ("trace", re.compile(r"TraceSetting")),
    ("logging", re.compile(r"LogSettings")),
)


def path_category(path: str) -> str:
    """The group of an HTTP path; what belongs to no other is metadata."""
    return next((name for name, pattern in _PATHS if pattern.match(path)), "metadata")


def method_category(method: str) -> str:
    """The group of a gRPC method."""
    return next((name for name, pattern in _METHODS if pattern.fullmatch(method)), "metadata")


class Restrictions:
    """The rules of one door.

    Args:
        rules: each `GROUP[,GROUP…]:KEY=VALUE`; a call to a group needs the header KEY with this value.
        prefix: of the headers' names.

    Attributes:
        open: there are no rules.

    Raises:
        ConfigError: a rule is malformed, or a group comes twice.
    """

    __slots__ = ("_expected", "open")

    def __init__(self, rules: Sequence[str], prefix: str = "") -> None:
        self._expected: dict[str, tuple[str, bytes]] = {}
        for rule in rules:
            match = _RULE.match(rule)
            if match is None:
                raise ConfigError(
                    "a restriction must be GROUP[,GROUP…]:KEY=VALUE, such as model-repository:admin-key=SECRET; its key is a "
                    "header's name, its value printable ASCII"
                )
            for group in match["groups"].split(","):
                if group not in CATEGORIES:
                    raise ConfigError(f"a restriction names group {quoted(group)}; known are {', '.join(CATEGORIES)}")
                if group in self._expected:
                    raise ConfigError(f"two restrictions name group '{group}'")
                self._expected[group] = (f"{prefix}{match['key']}".lower(), match["value"].encode())
        self.open = not self._expected

    def check(self, category: str, fields: Mapping[bytes, bytes]) -> None:
        """Check the headers of a call to a group.

        Args:
            fields: headers by lower-case name.

        Raises:
            FleetError: PERMISSION_DENIED; the header is missing or wrong.
        """
        expected = self._expected.get(category)
        if expected is None:
            return
        name, value = expected
        if not hmac.compare_digest(fields.get(name.encode(), b""), value):
            raise FleetError(f"This API is restricted, expecting header '{name}'", code=Code.PERMISSION_DENIED)
