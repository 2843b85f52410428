"""Folders of other tools, links to nothing and addresses, given to `penstock serve` as if they were model files."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from penstock.cli import known_folders
from penstock.cli.serve import ModelFileType


def said(text: str) -> str:
    """What `penstock serve TEXT` says."""
    with pytest.raises(click.BadParameter) as raised:
        ModelFileType().convert(text, None, None)
    return raised.value.message


def made(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return folder


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (("config.json", "onnx/model.onnx", "onnx/model_int8.onnx", "x.bin"), "file in it: penstock serve FOLDER/onnx/model.onnx"),
        (("config.json", "onnx/model_fp16.onnx"), "serve the file in it: penstock serve FOLDER/onnx/model_fp16.onnx"),
        (("config.json", "model.safetensors"), "cli export onnx --model FOLDER OUTPUT, then penstock serve OUTPUT/model.onnx"),
        (("config.json", "pytorch_model.bin"), "it is a model of Hugging Face's with weights and without ONNX"),
        (("config.json", "model.onnx", "model.safetensors"), "serve the file in it: penstock serve FOLDER/model.onnx"),
        (("1/model.onnx",), "it is a model of the repository above it: penstock serve --model-repository UP"),
        (("1/model.onnx", "config.pbtxt"), "it is a model of the repository above it: penstock serve --model-repository UP"),
        (("MLmodel", "model.pkl"), "it is an MLflow model: export the model in it to ONNX"),
        (("net.xml", "net.bin"), "it is an OpenVINO model, which no backend here runs"),
        (("a.onnx", "b.onnx"), "name the file to serve, such as: penstock serve FOLDER/a.onnx"),
        (("-a.onnx",), "serve the file in it: penstock serve FOLDER/-a.onnx"),
        (("digits/1/model.onnx",), "a repository of model folders is served with: penstock serve --model-repository FOLDER"),
        (("notes.txt",), "it has no model in it; make a first one with: penstock new NAME --model-repository FOLDER"),
    ],
)  # fmt: skip
def test_a_folder_is_told_with_the_command_that_was_meant(tmp_path: Path, names: tuple[str, ...], advice: str) -> None:
    folder = made(tmp_path / "bert", *names)

    text = said(str(folder))

    assert text.startswith(f"'{folder}' is a folder; ")
    assert advice.replace("FOLDER", str(folder)).replace("UP", str(tmp_path)) in text


def test_a_file_whose_name_begins_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "-a.onnx")
    monkeypatch.chdir(tmp_path)

    assert said(".").endswith("serve the file in it: penstock serve ./-a.onnx")


def test_a_link_to_nothing_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to("/blobs/abc")
    (tmp_path / "other.onnx").symlink_to("other.onnx")

    assert said(str(tmp_path / "model.onnx")).endswith("model.onnx' is a link to '/blobs/abc', where there is no file")
    assert said(str(tmp_path / "other.onnx")).endswith("is a link to 'other.onnx', where there is no file")


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("https://example.com/a b/model.onnx?raw=1", ["curl", "-fLO", "https://example.com/a b/model.onnx?raw=1"]),
        ("hf://org/model", ["download", "it", "first"]),
        ("s3://bucket/models", ["penstock", "serve", "--model-repository", "s3://bucket/models"]),
        ("net=s3://bucket/models", ["penstock", "serve", "--model-repository", "s3://bucket/models"]),
    ],
)
def test_an_address_is_not_looked_for_on_the_disk(address: str, command: list[str]) -> None:
    text = said(address)

    assert text.startswith(f"'{address}' is ")
    assert shlex.split(text)[-len(command) :] == command


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert known_folders.of_others(tmp_path / "file") == "it cannot be read: Not a directory"
