"""`penstock serve FILE…`: which files, and under which names."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli import group
from penstock.client import Client
from protocol.errors import ConfigError
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples/digits/models/digits/1/model.onnx"


def refused(*arguments: str) -> Result:
    done = CliRunner().invoke(group, ["serve", *arguments])
    assert done.exit_code != 0
    return done


def test_two_files_of_one_name_are_refused_before_anything_starts() -> None:
    done = refused(str(DIGITS), str(DIGITS))

    assert isinstance(done.exception, ConfigError)
    assert "given twice, would both be served as 'model'; give each a name of its own: digits=" in str(done.exception)


@pytest.mark.parametrize(
    ("files", "argument", "said"),
    [
        (["1/model.onnx"], "1", "is a folder; serve the file in it: penstock serve 1/model.onnx"),
        (
            ["m/config.pbtxt"],
            "m",
            "is a folder; it is a model of the repository above it: penstock serve --model-repository ",
        ),
        (
            ["r/m/1/model.onnx"],
            "r",
            "is a folder; a repository of model folders is served with: penstock serve --model-repository r",
        ),
        (["tf/saved_model.pb"], "tf", "python -m tf2onnx.convert --saved-model tf --output model.onnx"),
        ([], "gone.onnx", "there is no file 'gone.onnx'"),
        ([], "wine=gone.onnx", "there is no file 'gone.onnx'"),
        ([], "wine=", "must be FILE or NAME=FILE"),
    ],
)
def test_what_is_no_file_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], argument: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in files:
        Path(file).parent.mkdir(parents=True)
        Path(file).touch()

    done = refused(argument)

    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_files_are_served_under_the_names_that_they_are_given(tmp_path: Path) -> None:
    process = Process("serve", tmp_path / "serve.log", "serve", f"one={DIGITS}", f"two={DIGITS}")
    try:
        with Client(process.url) as client:
            wait_for("the server", client.ready)
            names = [entry["name"] for entry in client.models()]
    finally:
        process.stop()

    assert sorted(names) == ["one", "two"]
