"""`penstock completion`, in a real bash."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock.cli import COMMANDS, group, shells

ROOT = Path(__file__).parents[2]
ASK = """
source <(penstock completion bash)
COMP_WORDS=(%s) COMP_CWORD=%d
_penstock_completion penstock
printf '%%s\\n' "${COMPREPLY[@]}"
"""


def complete(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    shim = folder / "bin" / "penstock"
    if not shim.exists():
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m penstock "$@"\n')
        shim.chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    environment = {"PATH": f"{shim.parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [bash, "-c", ASK % (shlex.join(words), len(words) - 1)],
        capture_output=True, text=True, timeout=50, check=True, cwd=folder, env=environment,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("penstock", "serv"), ["serve"]),
        (("penstock", "mod"), ["models"]),
        (("penstock", "models", "unl"), ["unload"]),
        (("penstock", "infer", "m", "--sha"), ["--shape"]),
        (("penstock", "serve", "--http-p"), ["--http-port"]),
        (("penstock", "serve", "--routing", ""), ["queue", "spread"]),
        (("penstock", "serve", "--routing", "=", "q"), ["queue"]),
        (("penstock", "serve", "--routing", "="), ["queue", "spread"]),
        (("penstock", "serve", "--host", "=", "::1", "--routing", "="), ["queue", "spread"]),
        (("penstock", "serve", "wine", "=", "a.onnx", "--routing", "q"), ["queue"]),
        (("penstock", "completion", ""), ["bash", "zsh", "fish"]),
    ],
)
def test_bash_completes_commands_options_and_values(tmp_path: Path, words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(tmp_path, *words) == offered


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("penstock serve mod", "file"),
        ("penstock serve wine = mod", "file"),
        ("penstock check mod", "dir"),
        ("penstock serve --model-repository mod", "dir"),
        ("penstock serve --model-repository = mod", "dir"),
    ],
)
def test_files_and_folders_are_left_to_the_shell(words: str, kind: str) -> None:
    asked = {"_PENSTOCK_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}

    shells.register()
    done = CliRunner().invoke(group, env=asked, prog_name="penstock")

    assert done.output == f"{kind},mod\n"


def test_every_command_is_offered(tmp_path: Path) -> None:
    assert complete(tmp_path, "penstock", "") == list(COMMANDS)


@pytest.mark.parametrize(("shell", "word"), [("zsh", "compdef"), ("fish", "complete --no-files --command penstock")])
def test_other_shells_have_their_own_script(shell: str, word: str) -> None:
    done = CliRunner().invoke(group, ["completion", shell])

    assert done.exit_code == 0
    assert word in done.output


def test_offering_commands_imports_none_of_them() -> None:
    code = (
        "import sys, click, penstock.cli as c; context = click.Context(c.group);"
        "assert len(c.group.shell_complete(context, 's')) >= 3;"
        "print([name for name in c.COMMANDS if f'penstock.cli.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)

    assert done.stdout.strip() == "[]"
