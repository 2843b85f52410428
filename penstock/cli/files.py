"""Flags that name a file or folder which must be there: one that is not is refused with what was meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from penstock.paths import similar


class _Existing(click.Path):
    def __init__(self, *, folder: bool = False, dash: bool = False, text: bool = False) -> None:
        super().__init__(
            exists=True, file_okay=not folder, dir_okay=folder, allow_dash=dash, path_type=str if text else Path
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if not (os.fspath(value) == "-" and self.allow_dash) and not Path(value).exists():
            self.fail(
                f"there is no {'file' if self.file_okay else 'folder'} '{value}'{similar(Path(value))}", param, ctx
            )
        return super().convert(value, param, ctx)


FILE = _Existing()
FILE_NAME = _Existing(text=True)
"""The file's name as text."""
FILE_OR_STDIN = _Existing(dash=True)
"""`-` is standard input."""
FOLDER = _Existing(folder=True)
