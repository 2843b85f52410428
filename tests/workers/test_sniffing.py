"""Files that are not what their names claim are recognised by their first bytes, without a framework and without running them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.archives import archive
from workers.repository import file_advice, model_file_check, sniffing
from workers.repository.sniffing import FileKind, Recognised

ROOT = Path(__file__).parents[2]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as file:
        file.addfile(tarfile.TarInfo("model.onnx"))
    return target.getvalue()


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


HEADER = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
TORCHSCRIPT = archive("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl", "net/version")
EXPORTED = archive("net/data/weights/weight_0", "net/models/model.json", "net/archive_format")
OLD_EXPORTED = archive("serialized_exported_program.json", "serialized_state_dict.pt", "version")
STATE_DICT = archive("net/data.pkl", "net/data/0", "net/version", "net/byteorder")
DIGITS = (ROOT / "examples/digits/models/digits/1/model.onnx").read_bytes()

FILES: list[tuple[str, bytes, FileKind]] = [
    ("empty", b"", FileKind.EMPTY),
    ("blank", b" \n\n", FileKind.EMPTY),
    ("lfs", LFS, FileKind.LFS_POINTER),
    ("html", b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", FileKind.HTML),
    ("html with a byte order mark", b"\xef\xbb\xbf<HTML>", FileKind.HTML),
    ("xhtml", b'<?xml version="1.0"?><!DOCTYPE html><html>', FileKind.HTML),
    ("xml", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", FileKind.XML),
    ("pmml", b'<?xml version="1.0"?>\n<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4">', FileKind.PMML),
    ("openvino", b'<?xml version="1.0"?>\n<net name="net" version="11">', FileKind.OPENVINO),
    ("json", b'{"error": "not found"}', FileKind.TEXT),
    ("xgboost json", b'{"learner":{"attributes":{},"feature_names":[]', FileKind.XGBOOST),
    ("xgboost ubjson", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{L", FileKind.XGBOOST),
    ("lightgbm", b"tree\nversion=v4\nnum_class=1\n", FileKind.LIGHTGBM),
    ("catboost", b"CBM1\xf0\x07\x00\x00", FileKind.CATBOOST),
    ("hugging face", b'{\n  "_name_or_path": "x",\n  "model_type": "bert"', FileKind.SETTINGS),
    ("sharded weights", b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}', FileKind.SETTINGS),
    ("torchserve", archive("MAR-INF/MANIFEST.json", "model.pt"), FileKind.TORCHSERVE),
    ("notebook", b'{\n "cells": [\n  {', FileKind.NOTEBOOK),
    ("core ml", b"\x08\x05\x12\x9f\x01\n\x12\n\x05image\x1a\t", FileKind.CORE_ML),
    ("utf-16", "class Model: pass".encode("utf-16"), FileKind.UTF16),
    ("torchscript", TORCHSCRIPT, FileKind.TORCHSCRIPT),
    ("exported", EXPORTED, FileKind.EXPORTED),
    ("exported by an older torch", OLD_EXPORTED, FileKind.EXPORTED),
    ("aotinductor", archive("net/data/aotinductor/model/x.wrapper.so", "net/archive_format"), FileKind.COMPILED),
    ("state dict", STATE_DICT, FileKind.TORCH_SAVE),
    ("state dict of an older torch", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", FileKind.TORCH_SAVE),
    ("pickle", pickle.dumps(Trap()), FileKind.PICKLE),
    ("scikit-learn", b"\x80\x04\x95\x00\x01\x00\x00\x00\x00\x00\x00\x8c\x1asklearn.linear_model._base", FileKind.JOBLIB),
    ("safetensors", struct.pack("<Q", len(HEADER)) + HEADER + bytes(4), FileKind.SAFETENSORS),
    ("gguf", b"GGUF\x03\x00\x00\x00" + bytes(40), FileKind.GGUF),
    ("keras h5", b"\x89HDF\r\n\x1a\n" + bytes(64), FileKind.HDF5),
    ("keras", archive("metadata.json", "config.json", "model.weights.h5"), FileKind.KERAS),
    ("saved model", b"\x08\x01\x12\xd3\x01\n\x80\x01\x12\x06serve\x1a\x0ftensorflow2.15.0", FileKind.SAVED_MODEL),
    ("tflite", b"\x1c\x00\x00\x00TFL3" + bytes(64), FileKind.TFLITE),
    ("ort", b"\x1c\x00\x00\x00ORTM" + bytes(64), FileKind.ORT),
    ("npy", b"\x93NUMPY\x01\x00v\x00{'descr'", FileKind.NUMPY),
    ("npz", archive("a.npy", "b.npy"), FileKind.NUMPY),
    ("engine", b"ftrt" + bytes(64), FileKind.TENSORRT),
    ("gzip", gzip.compress(b"x"), FileKind.ARCHIVE),
    ("tar", tar(), FileKind.ARCHIVE),
    ("zip", archive("README.md", "model.onnx"), FileKind.ZIP),
    ("zip cut short", TORCHSCRIPT[:100], FileKind.BROKEN_ZIP),
    ("onnx", DIGITS, FileKind.ONNX),
    ("python", b"import numpy as np\n\nclass Model:\n    pass\n", FileKind.TEXT),
    ("python with words", ("# é\nclass Model: ...\n" + "é" * 5000).encode(), FileKind.TEXT),
    ("python in Latin-1", "# -*- coding: latin-1 -*-\n# é\n".encode("latin-1"), FileKind.UNKNOWN),
    ("python that begins like another", b"GGUF = 1\n", FileKind.TEXT),
]  # fmt: skip


@pytest.mark.parametrize(("content", "kind"), [file[1:] for file in FILES], ids=[file[0] for file in FILES])
def test_a_file_is_what_its_first_bytes_say(tmp_path: Path, content: bytes, kind: FileKind) -> None:
    (tmp_path / "file").write_bytes(content)

    assert model_file_check.recognised(tmp_path / "file").kind is kind


@pytest.mark.parametrize(
    ("suffix", "names"),
    [
        (".onnx", {"onnx", "ort", "python in Latin-1"}),
        (".pt", {"torchscript"}),
        (".pt2", {"exported", "exported by an older torch", "aotinductor"}),
        (
            ".py",
            {"python", "python with words", "python in Latin-1", "python that begins like another", "json"},
        ),
    ],
)
def test_only_what_a_backend_may_load_is_let_through(suffix: str, names: set[str]) -> None:
    passed = {name for name, _, kind in FILES if not file_advice.format_problem(Recognised(kind), suffix)}

    assert passed == names


@pytest.mark.parametrize("kind", [kind for kind in FileKind if kind is not FileKind.UNKNOWN])
def test_every_kind_has_an_advice(kind: FileKind) -> None:
    assert file_advice.advice(kind)


@given(st.binary(max_size=300), st.none() | st.lists(st.text(max_size=20)))
def test_any_bytes_are_recognised_as_something(head: bytes, members: list[str] | None) -> None:
    kind = sniffing.recognise(head, members)

    for suffix in (".onnx", ".pt", ".pt2", ".py", ".bin"):
        assert file_advice.format_problem(Recognised(kind), suffix).isprintable()


@given(st.integers(1, 20), st.binary(max_size=200))
def test_no_onnx_model_is_taken_for_something_else(version: int, rest: bytes) -> None:
    model = bytes([0x08, version, 0x12, len(b"pytorch")]) + b"pytorch" + rest

    assert file_advice.format_problem(Recognised(sniffing.recognise(model)), ".onnx") == ""


def test_external_data_that_git_lfs_has_not_fetched_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(DIGITS)
    (tmp_path / "model.onnx.data").write_bytes(LFS)
    (tmp_path / "weights").write_bytes(LFS)

    assert "model.onnx.data' is a Git LFS pointer" in model_file_check.load_problem(
        tmp_path / "model.onnx", "onnxruntime", single_file=True
    )
    (tmp_path / "model.onnx.data").unlink()
    assert model_file_check.load_problem(tmp_path / "model.onnx", "onnxruntime", single_file=True) == ""
    assert "weights' is a Git LFS pointer" in model_file_check.load_problem(tmp_path / "model.onnx", "onnxruntime")


def test_a_backend_of_others_takes_whatever_it_likes_but_a_pointer(tmp_path: Path) -> None:
    for name, content, _ in FILES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(content)
    refused = {name for name, _, _ in FILES if model_file_check.load_problem(tmp_path / name / "model.bin", "theirs")}

    assert refused == {"lfs"}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_torch_writes_is_recognised(tmp_path: Path) -> None:
    code = (
        "import torch; m = torch.nn.Linear(2, 1); torch.jit.script(m).save('ts.pt'); torch.save(m.state_dict(), 'sd.pt')\n"
        "torch.save(m.state_dict(), 'old.pt', _use_new_zipfile_serialization=False); torch.save(m, 'module.pt')\n"
        "torch.export.save(torch.export.export(m, (torch.zeros(1, 2),)), 'ep.pt2')\n"
    )
    pytest.importorskip("torch")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True, capture_output=True)

    kinds = {path.name: model_file_check.recognised(path).kind for path in tmp_path.iterdir()}

    assert kinds == {
        "ts.pt": FileKind.TORCHSCRIPT, "ep.pt2": FileKind.EXPORTED,
        "sd.pt": FileKind.STATE_DICT, "old.pt": FileKind.STATE_DICT, "module.pt": FileKind.MODULE,
    }  # fmt: skip
