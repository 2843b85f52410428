"""Folders in repositories that are not models, and incomplete models."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from workers.repository.folders import list_repository
from workers.repository.scan import ignored_folders, scan_repositories


def model(repository: Path, name: str = "good") -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.onnx").write_text("x")


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of the superuser, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["lost+found", "__MACOSX", "__pycache__", "@eaDir", "docs"])
def test_a_folder_that_is_no_models_is_passed_over_with_a_line(tmp_path: Path, name: str) -> None:
    model(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").touch()

    assert [(each.name, each.reason) for each in scan_repositories([tmp_path])] == [("good", "")]
    assert [line.startswith(f"ignore folder '{tmp_path / name}': ") for line in ignored_folders([tmp_path])] == [True]


def test_a_folder_whose_name_is_not_utf8_is_passed_over_with_a_line_that_can_be_printed(tmp_path: Path) -> None:
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/m\xff")  # noqa: PTH102 - pathlib takes no bytes
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")

    (line,) = ignored_folders([tmp_path])

    assert "m\\xff" in line
    line.encode()


@pytest.mark.parametrize("name", [".git", ".ipynb_checkpoints", ".DS_Store", ".Trash-1000", "..2026_01_01"])
def test_hidden_folders_and_files_need_no_line(tmp_path: Path, name: str) -> None:
    model(tmp_path)
    model(tmp_path, name)
    (tmp_path / "README.md").touch()
    (tmp_path / "good" / ".DS_Store").touch()

    assert [(each.name, each.reason) for each in scan_repositories([tmp_path])] == [("good", "")]
    assert ignored_folders([tmp_path]) == ()


def test_a_folder_of_the_file_system_that_only_root_may_read_is_passed_over(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    model(tmp_path)
    (tmp_path / "lost+found").mkdir(mode=0o700)
    (tmp_path / "secret").mkdir(mode=0o700)
    for name in ("lost+found", "secret"):
        os.chown(tmp_path / name, 0, 0) if os.geteuid() == 0 else (tmp_path / name).chmod(0)
    with nobody():
        found = {each.name: each.reason for each in scan_repositories([tmp_path])}

    assert found == {"good": "", "secret": f"'{tmp_path / 'secret'}' cannot be read: Permission denied"}


def test_a_model_file_without_a_versions_folder_is_told_where_to_go(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "net.onnx").touch()

    (found,) = scan_repositories([tmp_path])

    assert found.reason.endswith(f"move '{tmp_path}/digits/net.onnx' to '{tmp_path}/digits/1/model.onnx'")


def test_a_versions_folder_that_is_not_called_by_a_number_is_named(tmp_path: Path) -> None:
    model(tmp_path / "digits", "v1")
    (tmp_path / "digits" / "v1" / "model.onnx").touch()

    (found,) = scan_repositories([tmp_path / "digits"])
    assert "is named by a number" not in found.reason  # there v1 is a model's folder

    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "digits" / "v1").mkdir(parents=True)
    (tmp_path / "r" / "digits" / "v1" / "model.onnx").touch()
    (found,) = scan_repositories([tmp_path / "r"])
    assert found.reason.endswith(f"rename '{tmp_path}/r/digits/v1' to '{tmp_path}/r/digits/1'")


@pytest.mark.parametrize("what", ["link", "folder", "pipe", "circle"])
def test_a_configuration_that_is_no_file_is_named_and_not_taken_for_none(tmp_path: Path, what: str) -> None:
    model(tmp_path)
    config = tmp_path / "good" / "config.pbtxt"
    if what == "link":
        config.symlink_to("/mnt/configs/good.pbtxt")
    elif what == "circle":
        config.symlink_to(config)
    elif what == "folder":
        config.mkdir()
    else:
        os.mkfifo(config)

    (found,) = scan_repositories([tmp_path])

    said = "is not a file" if what in ("folder", "pipe") else "is a link to '"
    assert f"'{config}' {said}" in found.reason
    assert found.versions == ()


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "good" / "2").symlink_to("/mnt/gone")
    (tmp_path / "away").symlink_to("/mnt/away")

    away, good = scan_repositories([tmp_path])

    assert away.reason == f"'{tmp_path / 'away'}' is a link to '/mnt/away', which does not exist"
    assert good.warnings == ("ignore version '2', a link to '/mnt/gone', which does not exist",)


def test_one_folder_too_deep_is_told_the_folder_above(tmp_path: Path) -> None:
    model(tmp_path, "digits")

    with pytest.raises(ConfigError, match=f"is a model's folder; give the folder above it, '{tmp_path}'"):
        list_repository(tmp_path / "digits")
    with pytest.raises(ConfigError, match=f"serve the file: penstock serve {tmp_path}/digits/1/model.onnx"):
        list_repository(tmp_path / "digits" / "1")
