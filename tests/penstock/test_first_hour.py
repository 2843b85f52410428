"""docs/first-hour.md, run as written but for what installs: this test's environment has it already."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loadtest.first_model import PAGE, Command, Timed, kinds, load, run_kind, seconds_table, shell, with_table
from protocol.errors import FleetError

ROOT = Path(__file__).parents[2]
KINDS = kinds(PAGE.read_text())
RESULTS = ROOT / "docs" / "benchmarks" / "first-model.json"
INSTALLS = ("git clone", "python3 -m venv", "pip install")


def installs(command: Command) -> bool:
    return command.line.startswith(INSTALLS)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_model_is_made_served_and_called_as_the_page_says(kind: object) -> None:
    chosen = next(each for each in KINDS if each is kind)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with shell({"PYTHONPATH": str(ROOT)}, path) as opened:
        seconds = run_kind(chosen, opened, installs)
    assert len(seconds) >= 2
    assert all(command.expected for command in chosen.commands if command.line.startswith("penstock infer"))


def test_the_pages_table_has_the_seconds_of_the_commands_that_the_page_shows() -> None:
    """Run it again after a change of the page: python -m loadtest first-model KIND"""
    timed, about = load(RESULTS)
    assert {kind.name: [command.line for command in kind.commands] for kind in KINDS} == {
        name: each.commands for name, each in timed.items()
    }
    assert with_table(PAGE.read_text(), seconds_table(list(timed.values()), about)) == PAGE.read_text()


def test_a_page_is_read_as_files_and_commands() -> None:
    first = "# T\n\n## Clone\n\n```sh\ngit clone R x\n```\n\n"
    page = f"{first}## A\n\n```python a.py\nprint(1)\n```\n\n```sh\npython a.py   # 1\n```\n"
    (kind,) = kinds(page)
    assert kind.name == "A"
    assert kind.files == {"a.py": "print(1)\n"}
    assert kind.commands == (Command("git clone R x"), Command("python a.py", "1"))
    with pytest.raises(FleetError, match="must name its file"):
        kinds(page.replace("python a.py\nprint", "python\nprint"))


@pytest.mark.parametrize("line", ["python a.py", "false"])
def test_a_command_that_fails_or_says_something_else_stops_the_run(line: str) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with shell({}, path) as opened:
        (opened.folder / "a.py").write_text("print(2)\n")
        assert opened.run(Command("python a.py", "2")) > 0
        with pytest.raises(FleetError, match="ended with"):
            opened.run(Command(line, "1"))
        with pytest.raises(FleetError, match="does not serve"):
            opened.run(Command("penstock serve nothing.onnx"))


def test_the_table_has_a_column_for_each_kind_and_replaces_the_one_before() -> None:
    timed = [
        Timed(
            "A",
            ["git clone R x", "pip install x", "python a.py", "penstock serve a", "penstock infer a"],
            [1, 20, 3, 4, 0.25],
        ),
        Timed("B", ["git clone R x", "penstock serve b"], [1, 2]),
    ]
    text = seconds_table(timed, {"processor": "P", "system": "S", "date": "D"})
    assert "| seconds | A | B |" in text
    assert "| make the model | 3.0 | - |" in text
    assert "| **seconds together** | **28** | **3** |" in text
    page = PAGE.read_text()
    once = with_table(page, text)
    assert with_table(once, text) == once
    assert with_table(once, page.partition("-->\n")[2].partition("<!-- end")[0]) == page
