"""The page's files, read once.

Invariant: a path names one of the files that were read at start, and nothing else of the file system.
"""

from __future__ import annotations

import dataclasses
import hashlib
from importlib.resources import files
from typing import Final

ROOT: Final = "/"
FOLDER: Final = "/page/"
"""Where the files besides the HTML are."""
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclasses.dataclass(frozen=True, slots=True)
class PageFile:
    """One file, as it is sent.

    Attributes:
        body: its bytes.
        kind: media type.
        etag: of the bytes, quoted.
    """

    body: bytes
    kind: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """The page's files by URL path."""
    found = {}
    for entry in files("gateway.page").joinpath("static").iterdir():
        kind = _TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            body = entry.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[ROOT if entry.name == "index.html" else FOLDER + entry.name] = PageFile(body, kind, etag)
    return found
