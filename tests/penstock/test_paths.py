"""What is offered in place of a path that does not exist."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from penstock.cli.files import FILE, FILE_NAME, FILE_OR_STDIN, FOLDER
from penstock.paths import similar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("rows.jsonl", "model.onnx", "Weights.pt", ".hidden.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("row.jsonl", "rows.jsonl"),
        ("rows.json", "rows.jsonl"),
        ("model.onx", "model.onnx"),
        ("weights.pt", "Weights.pt"),
        ("modles", "models"),
        ("gone.jsonl", ""),
        ("hidden.jsonl", ""),
        ("gone/model.onnx", ""),
    ],
)
def test_a_name_beside_it_that_is_like_its_own(folder: Path, given: str, meant: str) -> None:
    assert similar(folder / given) == (f"; did you mean '{folder / meant}'?" if meant else "")


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (FILE, "model.onx", "there is no file 'model.onx'; did you mean 'model.onnx'?"),
        (FILE_NAME, "model.onx", "did you mean 'model.onnx'?"),
        (FILE_OR_STDIN, "row.jsonl", "did you mean 'rows.jsonl'?"),
        (FOLDER, "modles", "there is no folder 'modles'; did you mean 'models'?"),
        (FILE, "models", "is a directory"),
        (FOLDER, "rows.jsonl", "is a file"),
    ],
)
def test_flags_refuse_what_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: click.Path, given: str, says: str
) -> None:
    monkeypatch.chdir(folder)

    with pytest.raises(click.BadParameter) as caught:
        kind.convert(given, None, None)

    assert says in caught.value.message


def test_what_is_there_passes(folder: Path) -> None:
    assert FILE.convert(str(folder / "rows.jsonl"), None, None) == folder / "rows.jsonl"
    assert FILE_NAME.convert(str(folder / "rows.jsonl"), None, None) == str(folder / "rows.jsonl")
    assert FILE_OR_STDIN.convert("-", None, None) == Path("-")
