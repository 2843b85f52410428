"""Each `penstock …` in a text that our code prints is a command with options that exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from penstock.cli import COMMANDS, group

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "penstock", "protocol", "workers", "infra")
_LINE = re.compile(rf"\bpenstock ((?:{'|'.join(COMMANDS)})\b[^;,()\n|&…`\\]*)")


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a module that are no docstrings, with X for what is put into them."""
    documented = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documented | inside:
            yield node.value


def hints() -> set[tuple[str, str]]:
    """(file, words after `penstock`) of every hint."""
    found = set()
    for file in (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))):
        for text in texts(ast.parse(file.read_text())):
            for line in _LINE.findall(text):
                found.add((str(file.relative_to(ROOT)), " ".join(_command_words(line))))
    return found


def _command_words(line: str) -> list[str]:
    """The words up to where the sentence goes on."""
    words: list[str] = []
    for word in line.split():
        plain = word.rstrip(":.?'\"")
        if (
            words
            and not plain.startswith("-")
            and plain.islower()
            and plain.isalpha()
            and not _is_command([*words, plain])
        ):
            break
        words.append(plain)
    return words


def _is_command(words: list[str]) -> bool:
    return isinstance(_find(words)[0], click.Command) and not _find(words)[1]


def _find(words: list[str]) -> tuple[click.Command | None, list[str]]:
    """The command that the first words name, and the other words."""
    rest = list(words)
    with click.Context(group) as context:
        command = group.get_command(context, rest.pop(0))
        while (
            isinstance(command, click.Group) and rest and (inner := command.get_command(context, rest[0])) is not None
        ):
            command, rest = inner, rest[1:]
    return command, rest


HINTS = sorted(hints())


def test_there_are_hints() -> None:
    assert len(HINTS) > 40
    assert {file.partition("/")[0] for file, _ in HINTS} >= {"penstock", "workers"}


@pytest.mark.parametrize(("file", "words"), HINTS, ids=[f"{Path(file).stem}: {words[:50]}" for file, words in HINTS])
def test_every_hint_is_a_command_that_exists(file: str, words: str) -> None:
    command, rest = _find(shlex.split(words))

    assert command is not None, f"{file}: {words}"
    for word in rest:
        if word.startswith("-") and len(word) > 1:
            options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
            known = {name for option in options for name in (*option.opts, *option.secondary_opts)}
            assert word.partition("=")[0] in known, f"{file}: penstock {words}"
