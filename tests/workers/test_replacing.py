"""Folders of models that a load call brings: several workers of one machine write the same one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from workers.lifecycle.replacing import _publish


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


FILES = {"1/model.py": digest(b"code"), "config.pbtxt": digest(b"config")}


def written(folder: Path, code: bytes = b"code") -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_bytes(code)
    (folder / "config.pbtxt").write_bytes(b"config")
    return folder


def test_the_second_of_two_workers_leaves_the_folder_that_the_first_may_be_loading_from(tmp_path: Path) -> None:
    target = tmp_path / "model"
    _publish(written(tmp_path / "new-1"), target, FILES)
    first = target.stat().st_ino
    _publish(written(tmp_path / "new-2"), target, FILES)
    assert target.stat().st_ino == first
    assert (target / "1" / "model.py").read_bytes() == b"code"


def test_a_damaged_folder_is_replaced(tmp_path: Path) -> None:
    target = written(tmp_path / "model", b"half of the co")
    _publish(written(tmp_path / "new-1"), target, FILES)
    assert (target / "1" / "model.py").read_bytes() == b"code"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
