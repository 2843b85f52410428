"""The value of `--model-repository`: a folder, or the URL of a repository in an object store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import meant
from protocol.errors import ConfigError
from workers.repository.remote import address

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class RepositoryType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    """A folder as a `Path`, or a URL as text."""

    name = "folder or s3://"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """The existing folder, or the valid URL."""
        if isinstance(value, Path):
            return value
        if not address.is_remote(value):
            if not Path(value).is_dir():
                self.fail(meant.for_repository(Path(value)), param, ctx)
            folder: Path = click.Path(exists=True, file_okay=False, path_type=Path).convert(value, param, ctx)
            return folder
        try:
            address.parse(value)
        except ConfigError as error:
            self.fail(error.message, param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Folders, which the shell knows."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """The entries of the environment variable."""
        return address.split(rv)


def split(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags with local and remote repositories apart, as `WorkerSettings` has them."""
    given = flags["model_repository"]
    return {
        **flags,
        "model_repository": tuple(each for each in given if isinstance(each, Path)),
        "remote_repository": tuple(each for each in given if not isinstance(each, Path)),
    }
