"""The digests of model versions that a worker may serve: a file with one SHA-256 per line.

# digits, as reviewed on 3 May; `penstock check` prints digests
2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae  digits 3
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError, quoted

_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}\Z")


def parse_digests(text: str, where: str) -> frozenset[str]:
    """The digests of a file. What follows one in its line is a remark.

    Args:
        where: its name, for errors.

    Raises:
        ConfigError: a line does not begin with a SHA-256.
    """
    found = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            if not _DIGEST.match(words[0]):
                raise ConfigError(
                    f"line {number} of '{where}' begins with {quoted(words[0])}; it must be a SHA-256, 64 hexadecimal digits"
                )
            found.add(words[0].lower())
    return frozenset(found)


def read_digests(path: Path) -> frozenset[str]:
    """The digests that a file lists.

    Raises:
        ConfigError: it cannot be read; naming it.
    """
    try:
        return parse_digests(path.read_text(errors="replace"), str(path))
    except OSError as error:
        raise ConfigError(f"the list of allowed digests '{path}' cannot be read: {error.strerror}") from None
