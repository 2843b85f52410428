"""Planted bugs are found by their named tests: all of them in `python -m tests.simulation.patching`, a few here."""

from __future__ import annotations

import concurrent.futures

import pytest

from tests.simulation.patches import PATCHES, ROOT, Patch
from tests.simulation.patching import PAGE, chosen, hunt, page

HERE = (
    "a sweep leaves out the last of several due calls",
    "one of two peers that die together is forgotten",
    "an evicted member's partitions are dealt out without the rest",
)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_each_still_fits_the_code_and_names_a_test_that_is_there(patch: Patch) -> None:
    text = (ROOT / patch.file).read_text()
    assert patch.planted(text) != text
    assert patch.finders
    for finder in patch.finders:
        file, *parts = finder.split("::")
        assert f"def {parts[-1].partition('[')[0]}(" in (ROOT / file).read_text() or parts[-1].startswith("Test")


def test_names_are_told_apart_and_kinds_are_many() -> None:
    assert len({patch.name for patch in PATCHES}) == len(PATCHES) >= 40
    assert len({patch.kind for patch in PATCHES}) >= 15


def test_the_page_lists_them_as_they_are() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "write it again: python -m tests.simulation.patching --page"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_few_are_found() -> None:
    patches = [patch for patch in PATCHES if patch.name in HERE]
    assert len(patches) == len(HERE)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        missed = [str(result) for result in pool.map(hunt, patches) if not result.found]
    assert not missed


def test_what_is_right_is_not_found() -> None:
    """A patch that changes nothing is missed: a finder that fails on its own would find everything."""
    (patch,) = chosen(["one of two peers"])
    harmless = Patch(
        patch.name, patch.kind, patch.file, ((patch.changes[0][0], patch.changes[0][0] + " "),), patch.finders
    )
    assert not hunt(harmless).found
