from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from workers.repository.digests import SETTLED, Digests, content_digest


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "model.bin", b"one")
    return tmp_path / "model.bin"


def later(path: Path, seconds: float = SETTLED + 1) -> float:
    """A time at which the file has long been unchanged."""
    return path.stat().st_ctime + seconds


def test_a_file_that_rests_is_read_once(file: Path) -> None:
    reads: list[Path] = []

    def read(path: Path) -> bytes:
        reads.append(path)
        return content_digest(path)

    digests = Digests(lambda: later(file), read)
    first = digests.digest_of([file], file.parent, b"")
    assert digests.digest_of([file], file.parent, b"") == first
    assert digests.digest_of([file], file.parent, b"another configuration") != first
    assert reads == [file]


def test_a_file_that_was_just_written_is_read_again(file: Path) -> None:
    digests = Digests(lambda: later(file, 0.0))
    first = digests.digest_of([file], file.parent, b"")
    times = file.stat()
    with file.open("r+b") as opened:  # the same inode, size and, within the clock's resolution, times
        opened.write(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests.digest_of([file], file.parent, b"") != first


def test_a_change_that_keeps_size_and_modification_time_is_seen(file: Path) -> None:
    digests = Digests(lambda: later(file))
    first = digests.digest_of([file], file.parent, b"")
    times = file.stat()
    write(file, b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests.digest_of([file], file.parent, b"") != first


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for path in files:
        write(path, b"x")
    digests = Digests(lambda: later(files[1]))
    digests.digest_of(files, tmp_path, b"")
    digests.forget_others()
    digests.digest_of(files[:1], tmp_path, b"")
    digests.forget_others()
    assert list(digests._known) == files[:1]


NAMES = st.sampled_from("abc")


class Repository(RuleBasedStateMachine):
    """Whatever happens to files, the cache gives the same digest as reading everything."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="penstock-digests-")
        self.base = Path(self.folder.name)
        self.rested = 0.0
        self.digests = Digests(lambda: time.time() + self.rested)

    @rule(name=NAMES, content=st.binary(max_size=2))
    def write(self, name: str, content: bytes) -> None:
        self.rested = 0.0
        write(self.base / name, content)

    @rule(old=NAMES, new=NAMES)
    def move(self, old: str, new: str) -> None:
        self.rested = 0.0
        if (self.base / old).exists():
            (self.base / old).replace(self.base / new)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        (self.base / name).unlink(missing_ok=True)

    @rule()
    def rest(self) -> None:
        self.rested += SETTLED + 1

    @rule(config=st.binary(max_size=1))
    def compare(self, config: bytes) -> None:
        files = sorted(self.base.iterdir())
        assert self.digests.digest_of(files, self.base, config) == Digests().digest_of(files, self.base, config)
        self.digests.forget_others()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestRepository = Repository.TestCase


@given(
    st.dictionaries(NAMES, st.binary(max_size=3), max_size=3), st.dictionaries(NAMES, st.binary(max_size=3), max_size=3)
)
def test_different_trees_have_different_digests(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    def digest(tree: dict[str, bytes]) -> str:
        with tempfile.TemporaryDirectory(prefix="penstock-digests-") as folder:
            for name, content in tree.items():
                write(Path(folder) / name, content)
            return Digests().digest_of(sorted(Path(folder).iterdir()), Path(folder), b"")

    assert (digest(first) == digest(second)) == (first == second)
