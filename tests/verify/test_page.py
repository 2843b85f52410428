"""docs/verify.md says what the command does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock.cli.verify import command
from penstock.verify.judge.judge import PROMISES
from penstock.verify.plan.plan import ALL_FAULTS
from penstock.verify.report.report import BROKEN, HELD, NOT_JUDGED, PROVES_NOTHING
from protocol.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_flag_of_the_page_is_one() -> None:
    flags = {flag for parameter in command.params for flag in parameter.opts}

    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - {"--break-server", "--cluster"} <= flags


def test_the_page_names_every_fault_and_every_promise() -> None:
    rows = [line.split("|")[1] for line in section("What is broken").splitlines() if line.startswith("| `")]
    promises = re.findall(r"^\| (I\d+) ", section("What the verdicts mean"), re.MULTILINE)

    assert {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)} - {"--faults"} == set(ALL_FAULTS)
    assert promises == list(PROMISES)
    assert all(name in section("What the verdicts mean") for name in NOT_JUDGED)


def test_the_page_names_every_exit_code() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}

    assert codes == {HELD, BROKEN, PROVES_NOTHING}


@pytest.mark.parametrize(
    "arguments",
    [[], ["--kafka", "k:1", "--redis", "redis://r/0", "--faults", "sharks"],
     ["--kafka", "k:1", "--redis", "redis://r/0", "--fault-command", "nothing"]],
)  # fmt: skip
def test_what_cannot_be_run_is_said_before_anything_is_started(arguments: list[str]) -> None:
    done = CliRunner().invoke(command, arguments)

    assert isinstance(done.exception, ConfigError)
