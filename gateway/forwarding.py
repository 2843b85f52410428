"""Which headers of a call become parameters of its request. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from protocol.errors import ConfigError, InvalidArgument, quoted
from protocol.messages import Parameters

MAX_NAME: Final = 256
"""Characters of a header's name that is looked at, so that no name can keep the pattern busy."""
_CASE: Final = "(?-i)"
_SECRET: Final = frozenset({"authorization", "x-api-key", "proxy-authorization", "cookie"})
"""Never forwarded: parameters are part of records, and models may print them."""
_RESERVED: Final = frozenset(
    {"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output", "lane"}
)


class ForwardedHeaders:
    """The headers whose whole name matches a pattern, whatever their case unless the pattern begins with `(?-i)`.

    Names are lower-case here, as HTTP/2 sends them; Triton keeps the case of HTTP/1.1.

    Args:
        pattern: a regular expression; "" forwards none.

    Attributes:
        open: whether any header is forwarded.

    Raises:
        ConfigError: the pattern is none.
    """

    __slots__ = ("_pattern", "open")

    def __init__(self, pattern: str) -> None:
        flags = re.NOFLAG if pattern.startswith(_CASE) else re.IGNORECASE
        try:
            self._pattern = re.compile(pattern.removeprefix(_CASE), flags)
        except re.error as error:
            raise ConfigError(f"header pattern {quoted(pattern)} is no regular expression: {error}") from None
        self.open = bool(pattern)

    def parameters(self, fields: Iterable[tuple[str, str]]) -> Parameters:
        """The parameters that headers become; each is a string.

        Raises:
            InvalidArgument: a header has the name of a reserved parameter.
        """
        found: Parameters = {}
        for name, value in fields:
            if len(name) > MAX_NAME or name in _SECRET or not self._pattern.fullmatch(name):
                continue
            if name in _RESERVED or name.startswith("triton_"):
                raise InvalidArgument(
                    f"header '{name}' is forwarded as a parameter, but that parameter's name is reserved"
                )
            found[name] = value
        return found
