"""The pages cannot drift from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.cli import COMMANDS
from penstock.cli.reference import page

ROOT = Path(__file__).parents[2]


def test_the_configuration_page_is_what_the_commands_say() -> None:
    """Write it anew with: python -m penstock.cli.reference > docs/configuration.md"""
    assert (ROOT / "docs" / "configuration.md").read_text() == page()


@pytest.mark.parametrize("path", sorted(ROOT.glob("**/*.md"), key=str), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path: Path) -> None:
    if any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts):
        return
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not link.startswith(("http://", "https://")):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    steps = text[text.index("## One request") : text.index("## Use it")]
    for package, name in re.findall(r"`(protocol|gateway|workers)/([\w/]+(?:\.py|/)?)`", steps):
        assert (ROOT / package / name).exists(), f"README names {package}/{name}"


def test_every_command_of_the_readme_exists() -> None:
    named = re.findall(r"^\s+penstock (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)

    assert named
    assert set(named) <= set(COMMANDS)
