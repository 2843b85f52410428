"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

PAGE: Final = Path("docs/benchmarks.md")
_F = TypeVar("_F", bound=Callable[..., Any])


def target_options(function: _F) -> _F:
    """What is called, and with which inputs."""
    options = [
        click.argument("url"),
        click.option("--model", "-m", required=True, help="Model name."),
        click.option("--version", default="", show_default=False, help="Model version; the newest one unless given."),
        click.option("--redis", default="redis://127.0.0.1:6379", help="With kafka://: URL of the results."),
        click.option("--prefix", default="penstock", help="With kafka://: the fleet's prefix."),
        click.option(
            "--repository",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Model repository: calls the model directly to know the right answers, and checks every one.",
        ),
        click.option("--integers-below", default=100, help="Random integers are drawn from 0 up to this."),
        click.option("--bodies", default=512, help="How many different bodies to send in rotation."),
        click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="An extra HTTP header."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def page_options(function: _F) -> _F:
    """Where the page of a comparison goes."""
    for option in (
        click.option(
            "--readme",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write the table of figures here, too.  [default: README.md with the default page]",
            show_default=False,
        ),
        click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=PAGE, help="Page."),
    ):
        function = option(function)
    return function


def out_option(default: str | Path, text: str = "Page; its JSON goes beside it.") -> Callable[[_F], _F]:
    """The option `--out`: the page that is written."""
    return click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path(default), help=text)


def rounds_option(default: int, text: str) -> Callable[[_F], _F]:
    """The option `--rounds`."""
    return click.option("--rounds", type=click.IntRange(1), default=default, help=text)


def seconds_option(default: float, least: float = 1.0) -> Callable[[_F], _F]:
    """The option `--seconds` of each point."""
    return click.option("--seconds", type=click.FloatRange(least), default=default, help="Of each point.")


def cache_option() -> Callable[[_F], _F]:
    """The option `--cache`: where the benchmark's models are kept."""
    return click.option(
        "--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".cache/bench"), help="Models."
    )
