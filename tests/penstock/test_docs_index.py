"""docs/README.md lists every page, and the pages' links lead to pages and headings that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path for path in ROOT.glob("**/*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def links(path: Path) -> list[str]:
    """Of a page, without those that lead elsewhere or stand in code."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:", link)]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    made: set[str] = set()
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        shown = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", heading).lower()
        base = re.sub(r"[^\w\- ]", "", shown).strip().replace(" ", "-")
        made.add(next(name for n in range(100) if (name := f"{base}-{n}" if n else base) not in made))
    return made


def test_every_page_is_in_the_index() -> None:
    """Each page of docs and of docs/benchmarks by itself; the decisions as a folder."""
    listed = {(DOCS / link).resolve() for link in links(DOCS / "README.md")}
    pages = {*DOCS.glob("*.md"), *DOCS.glob("benchmarks/*.md")} - {DOCS / "README.md"}

    assert {str(page.relative_to(ROOT)) for page in pages if page.resolve() not in listed} == set()
    assert (DOCS / "decisions").resolve() in listed


def test_the_readme_leads_to_the_index() -> None:
    assert "docs/README.md" in links(ROOT / "README.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link}: there is no {target}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), (
                f"{link}: {target.name} has no such heading; it has {sorted(anchors(target))}"
            )
