"""`penstock completion` in a real zsh and a real fish, as a person at a terminal has it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.cli import COMMANDS

ROOT = Path(__file__).parents[2]
Complete = Callable[[str], list[str]]
ZSH = r"""
zmodload zsh/zpty
zpty shell 'zsh -f -i'
zpty -w shell "autoload -Uz compinit && compinit -u -D; source <(penstock completion zsh)"
zpty -w shell 'shown() { print -r -- "BUFFER<$BUFFER>"; zle kill-buffer }; zle -N shown; bindkey "^X" shown'
zpty -w shell 'print REA""DY'
zpty -r shell printed '*READY*'
zpty -w -n shell "$1"$'\t\x18'
zpty -r shell printed '*BUFFER<*>*'
print -r -- "$printed"
"""
"""A zsh in a terminal, in which the line $1 and Tab are typed: prints the screen, with what the line has become in BUFFER<>."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a command is typed: models to complete, and `penstock` on the path."""
    shim = tmp_path / "bin" / "penstock"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m penstock "$@"\n')
    shim.chmod(0o755)
    for name in ("models", "runs/lr=3", "my models"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("model.onnx", "runs/lr=3/model.onnx", "my models/net.onnx"):
        (tmp_path / name).touch()
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder / "home"),
        "TERM": "xterm", "COLUMNS": "200", "LINES": "60", "LC_ALL": "C.UTF-8",
    }  # fmt: skip


@pytest.fixture
def fish(folder: Path) -> Complete:
    """What fish offers for a command line: words, and behind a tab their descriptions."""
    program = shutil.which("fish")
    if program is None:
        pytest.skip("fish is not there: apt-get install fish")
    script = folder / "home" / ".config" / "fish" / "completions" / "penstock.fish"
    script.parent.mkdir(parents=True)
    with script.open("wb") as file:
        subprocess.run(
            [folder / "bin" / "penstock", "completion", "fish"], stdout=file, check=True, env=environment(folder)
        )

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            [program, "-c", "complete -C $argv[1]", line],
            capture_output=True, text=True, timeout=50, check=True, cwd=folder, env=environment(folder),
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.splitlines()

    return complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("penstock serv", ["serve"]),
        ("penstock models unl", ["unload"]),
        ("penstock infer m --sha", ["--shape"]),
        ("penstock serve --routing ", ["queue", "spread"]),
        ("penstock serve --routing=q", ["--routing=queue"]),
        ("penstock serve mod", ["model.onnx", "models/"]),
        ("penstock check mod", ["models/"]),
        ("penstock serve --model-repository=mod", ["--model-repository=models/"]),
        ("penstock serve wine=mod", ["wine=model.onnx", "wine=models/"]),
        ("penstock serve runs/lr=3/", ["runs/lr=3/model.onnx"]),
        ("penstock serve 'my models/", ["my models/net.onnx"]),
    ],
)
def test_fish_completes_commands_options_values_and_paths(fish: Complete, line: str, offered: list[str]) -> None:
    assert [each.split("\t")[0] for each in fish(line)] == offered


def test_fish_shows_whole_descriptions(fish: Complete) -> None:
    assert dict(line.split("\t") for line in fish("penstock ")) == COMMANDS


@pytest.fixture
def zsh(folder: Path) -> Complete:
    """What a command line becomes by a Tab at its end."""
    program = shutil.which("zsh")
    if program is None:
        pytest.skip("zsh is not there: apt-get install zsh")

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            [program, "-f", "-c", ZSH, "zsh", line],
            capture_output=True, text=True, timeout=50, check=True, cwd=folder, env=environment(folder),
        )  # fmt: skip
        assert done.stderr == ""
        found = re.search("(?s)(.*)BUFFER<(.*)>", done.stdout.replace("\r", ""))
        assert found is not None
        return [found[2].rstrip(), *found[1].splitlines()]

    return complete


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("penstock serv", "penstock serve"),
        ("penstock models unl", "penstock models unload"),
        ("penstock infer m --sha", "penstock infer m --shape"),
        ("penstock serve --routing sp", "penstock serve --routing spread"),
        ("penstock serve --routing=q", "penstock serve --routing=queue"),
        ("penstock serve mod", "penstock serve model"),
        ("penstock serve model.", "penstock serve model.onnx"),
        ("penstock check mod", "penstock check models/"),
        ("penstock serve --model-repository=mod", "penstock serve --model-repository=models/"),
        ("penstock serve wine=model.", "penstock serve wine=model.onnx"),
        ("penstock serve runs/lr=3/", "penstock serve runs/lr=3/model.onnx"),
        ("penstock serve 'my models/", "penstock serve 'my models/net.onnx'"),
    ],
)
def test_zsh_completes_commands_options_values_and_paths(zsh: Complete, line: str, completed: str) -> None:
    assert zsh(line)[0] == completed


def test_zsh_shows_descriptions(zsh: Complete) -> None:
    shown = [line.partition("\x1b")[0].strip() for line in zsh("penstock ")]
    listed = dict(re.split(" +-- ", line) for line in shown if " -- " in line and line.split()[0] in COMMANDS)
    shown_whole = {name: text for name, text in listed.items() if len(text) < 50}

    assert listed.keys() >= COMMANDS.keys() - {"serve"}
    assert shown_whole.items() <= COMMANDS.items()
