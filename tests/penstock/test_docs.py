"""The pages cannot drift from the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from penstock.cli import COMMANDS, group
from penstock.cli.exits import EXIT_CODES
from penstock.cli.reference import page

ROOT = Path(__file__).parents[2]


def test_the_configuration_page_is_what_the_commands_say() -> None:
    """Regenerate it with: python -m penstock.cli.reference > docs/configuration.md"""
    assert (ROOT / "docs" / "configuration.md").read_text() == page()


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    steps = text[text.index("## One request") : text.index("## Use it")]
    for package, name in re.findall(r"`(protocol|gateway|workers)/([\w/]+(?:\.py|/)?)`", steps):
        assert (ROOT / package / name).exists(), f"README names {package}/{name}"


def command_lines() -> list[tuple[str, str]]:
    """Every `penstock …` of every page's blocks of code, with the page; first-model.md and dead-letters.md are also run."""
    return [(str(path.relative_to(ROOT)), line) for path in PAGES for line in _command_lines(path.read_text())]


def _command_lines(text: str) -> list[str]:
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"^```(?:sh|bash|)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [*"\n".join(fenced).splitlines(), *re.findall(r"^    \S.*$", text, re.MULTILINE)]
    parts = [part for line in lines for part in re.split(r"&&|\|", line)]
    return [match[1] for part in parts if (match := re.match(r"\s*(?:\w+=\S+ )*(penstock [a-z-].*)", part))]


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("docs/*.md"))]


def test_the_pages_have_command_lines() -> None:
    assert len({line for _, line in command_lines()}) > 15


@pytest.mark.parametrize(("place", "line"), sorted(set(command_lines())), ids=lambda value: value[:60])
def test_every_command_line_of_the_pages_is_one_that_the_commands_take(place: str, line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    if words[0] not in COMMANDS:
        assert not words[0].isalpha(), f"{place}: there is no penstock {words[0]}"
        return
    with click.Context(group) as context:
        command = group.get_command(context, words.pop(0))
        while isinstance(command, click.Group) and words:
            command = command.get_command(context, words.pop(0))
        assert command is not None, f"{place}: {line}"
        command.make_parser(click.Context(command)).parse_args(words)


def test_every_exit_code_is_on_the_configuration_page() -> None:
    text = page()
    section = text[text.index("## Exit codes") :]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}

    assert documented == {0, 1, 2, 12, 130, 141, *EXIT_CODES.values()}
