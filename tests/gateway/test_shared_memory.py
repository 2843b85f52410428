"""Shared memory regions: which are registered, what may be touched of them, and what a stranger cannot do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.shared_memory import Region, Regions
from gateway.shared_memory.regions import MAX_REGIONS
from protocol.errors import FleetError, InvalidArgument, NotFound, Unsupported

CONTENT = bytes(range(64))


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    """Shared memory in a folder of the test, with one object of 64 bytes."""
    (tmp_path / "object").write_bytes(CONTENT)
    held = Regions(True, tmp_path)
    yield held
    held.close()


def test_parts_of_a_region_are_read_and_written(regions: Regions, tmp_path: Path) -> None:
    regions.register("r", "/object", 8, 32)

    assert regions.read("r", 4, 4) == CONTENT[12:16]
    regions.write("r", 0, 8, [b"ab", memoryview(b"cd"), b""])
    assert (tmp_path / "object").read_bytes() == CONTENT[:8] + b"abcd" + CONTENT[12:]


def test_status_tells_what_is_registered(regions: Regions) -> None:
    regions.register("b", "object", 16, 16)
    regions.register("a", "/object", 0, 64)

    assert regions.status() == [Region("a", "/object", 0, 64), Region("b", "object", 16, 16)]
    assert regions.status("b") == [Region("b", "object", 16, 16)]
    with pytest.raises(NotFound, match="Unable to find system shared memory region: 'c'"):
        regions.status("c")
    regions.unregister("c")
    regions.unregister("a")
    assert [region.name for region in regions.status()] == ["b"]
    regions.unregister()
    assert regions.status() == []


@pytest.mark.parametrize(
    ("offset", "size", "text"),
    [
        (0, 33, "offset \\+ byte size"),
        (31, 2, "offset \\+ byte size"),
        (32, 0, "Invalid offset for"),
        (-1, 4, "Invalid offset for"),
        (2**64 - 4, 8, "Invalid offset for"),
        (0, 2**63, "offset \\+ byte size"),
        (0, -1, "offset \\+ byte size"),
    ],
)
def test_nothing_outside_a_region_is_touched(
    regions: Regions, tmp_path: Path, offset: int, size: int, text: str
) -> None:
    regions.register("r", "/object", 8, 32)

    with pytest.raises(InvalidArgument, match=text):
        regions.read("r", offset, size)
    with pytest.raises(InvalidArgument, match=text):
        regions.write("r", offset, size, [b"x"])
    assert (tmp_path / "object").read_bytes() == CONTENT


def test_more_than_the_part_is_not_written(regions: Regions, tmp_path: Path) -> None:
    regions.register("r", "/object", 0, 64)

    with pytest.raises(InvalidArgument, match="9 bytes do not fit into 8 bytes"):
        regions.write("r", 0, 8, [b"12345", b"6789"])
    assert (tmp_path / "object").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "..",
        ".",
        "/..",
        "../object",
        "/a/b",
        "a/../object",
        "x" * 256,
        "a\0b",
        "a\nb",
        "/triton_python_backend_shm_region_1",
    ],
)
def test_a_key_cannot_leave_the_folder(regions: Regions, key: str) -> None:
    with pytest.raises(InvalidArgument):
        regions.register("r", key, 0, 8)


def test_only_shared_memory_is_opened(regions: Regions, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    for key in ("fifo", "folder", "link", "missing"):
        with pytest.raises((NotFound, InvalidArgument)):
            regions.register(key, key, 0, 1)
    assert regions.status() == []


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 65), (60, 8), (-1, 8), (0, 0), (0, -8), (2**64 - 4, 8), (2**63 - 1, 2**63 - 1)]
)
def test_a_region_lies_within_its_object(regions: Regions, offset: int, size: int) -> None:
    with pytest.raises(InvalidArgument, match="failed to register shared memory region 'r'"):
        regions.register("r", "/object", offset, size)


def test_a_name_is_registered_once(regions: Regions) -> None:
    regions.register("r", "/object", 0, 64)
    with pytest.raises(InvalidArgument, match="already in manager"):
        regions.register("r", "/object", 0, 64)
    with pytest.raises(InvalidArgument):
        regions.register("", "/object", 0, 64)
    with pytest.raises(InvalidArgument):
        regions.register("r" * 257, "/object", 0, 64)


def test_their_number_is_bounded(regions: Regions) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(MAX_REGIONS):
        regions.register(f"r{number}", "/object", 0, 64)
    with pytest.raises(InvalidArgument, match="the limit"):
        regions.register("one more", "/object", 0, 64)
    regions.unregister()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_object_that_became_shorter_is_an_error_and_no_crash(regions: Regions, tmp_path: Path) -> None:
    regions.register("r", "/object", 0, 64)
    os.truncate(tmp_path / "object", 10)

    with pytest.raises(InvalidArgument, match="has become shorter"):
        regions.read("r", 8, 8)
    with pytest.raises(InvalidArgument, match="has become shorter"):
        regions.write("r", 8, 8, [b"12345678"])
    assert (tmp_path / "object").stat().st_size == 10


def test_without_leave_everything_is_refused(tmp_path: Path) -> None:
    regions = Regions(False, tmp_path)
    calls = [
        lambda: regions.register("r", "/object", 0, 8), regions.status, regions.unregister, lambda: regions.read("r", 0, 1),
        lambda: regions.write("r", 0, 1, []),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unsupported, match="Client shared memory is disabled"):
            call()
    assert isinstance(regions.cuda_refused(), InvalidArgument)


def test_other_processes_are_told_of_changes(regions: Regions, tmp_path: Path) -> None:
    other, told = Regions(True, tmp_path), list[list[Region]]()
    regions.on_change = told.append
    regions.register("a", "/object", 0, 64)
    regions.register("b", "/object", 8, 8)
    other.replace(told[-1])
    assert other.status() == regions.status()
    regions.unregister("a")
    other.replace([*told[-1], Region("gone", "/gone", 0, 1)])
    assert other.status() == regions.status() == [Region("b", "/object", 8, 8)]
    other.close()


@given(st.text(max_size=20), st.text(max_size=20), st.integers(), st.integers())
def test_whatever_is_sent_raises_only_our_errors(name: str, key: str, offset: int, size: int) -> None:
    regions = Regions(True, Path("/nowhere"))
    for call in (
        lambda: regions.register(name, key, offset, size), lambda: regions.read(name, offset, size),
        lambda: regions.write(name, offset, size, [b"x"]), lambda: regions.check(name, offset, size),
    ):  # fmt: skip
        with pytest.raises(FleetError):
            call()
