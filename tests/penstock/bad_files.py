"""Files that people take for models, and what `penstock serve` says to each. Writes golden/bad_files.txt:

python -m tests.penstock.bad_files
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
GOLDEN: Final = Path(__file__).parent / "golden" / "bad_files.txt"
DIGITS: Final = ROOT / "examples/digits/models/digits/1/model.onnx"
HEADER: Final = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
PLAIN: Final[dict[str, bytes]] = {
    "empty.onnx": b"",
    "page.pt2": b"<!DOCTYPE html>\n<html><title>Sign in</title></html>",
    "denied.pt": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "pointer.onnx": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    "notes.pt": b"The weights are on the other server.\n",
    "weights.safetensors": struct.pack("<Q", len(HEADER)) + HEADER + bytes(4),
    "weights.pt": struct.pack("<Q", len(HEADER)) + HEADER + bytes(4),
    "keras.h5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "digits.pt": DIGITS.read_bytes(),
    "digits.bak": DIGITS.read_bytes(),
    "boost.json": b'{"learner":{"attributes":{},"feature_names":[]',
    "boost.txt": b"tree\nversion=v4\nnum_class=1\n",
    "boost.cbm": b"CBM1\xf0\x07\x00\x00",
    "forest.pmml": b'<?xml version="1.0"?>\n<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4">',
    "net.xml": b'<?xml version="1.0"?>\n<net name="net" version="11">',
    "net.mlmodel": b"\x08\x05\x12\x9f\x01\n\x12\n\x05image\x1a\t",
    "train.ipynb": b'{\n "cells": [\n  {',
    "engine.plan": b"ftrt" + bytes(64),
    "blank.bin": b"",
    "forest.pkl": b"\x80\x04\x95\x00\x01\x00\x00\x00\x00\x00\x00\x8c\x1asklearn.ensemble._forest",
}
NAMES: Final = (
    *PLAIN, "state_dict.pt", "old_state_dict.pth", "checkpoint.pt", "whole_model.pt", "object.pt", "cut.pt", "program.pt",
    "things.pt2", "pytorch_model.bin", "scripted.pt", "counts.jit", "complex.pt2",
)  # fmt: skip


def write_files(folder: Path) -> None:
    """Every bad file, in the folder."""
    import torch

    for name, content in PLAIN.items():
        (folder / name).write_bytes(content)
    net = torch.nn.Linear(2, 1)
    torch.save(net.state_dict(), folder / "state_dict.pt")
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    torch.save(net.state_dict(), folder / "old_state_dict.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "model_state_dict": net.state_dict(), "optimizer": {}}, folder / "checkpoint.pt")
    torch.save(net, folder / "whole_model.pt")
    (folder / "object.pt").write_bytes(pickle.dumps(Trap()))
    with zipfile.ZipFile(folder / "things.pt2", "w") as archive:
        archive.writestr("README.md", "x")

    class Counts(torch.nn.Module):
        def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
            return x * n

    class Complex(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.complex64)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(str(folder / "scripted.pt"))
        torch.jit.script(Counts()).save(str(folder / "counts.jit"))
    (folder / "cut.pt").write_bytes((folder / "scripted.pt").read_bytes()[:900])
    torch.export.save(torch.export.export(net, (torch.zeros(1, 2),)), str(folder / "exported.pt2"))
    (folder / "exported.pt2").rename(folder / "program.pt")
    torch.export.save(torch.export.export(Complex(), (torch.zeros(1, 2),)), str(folder / "complex.pt2"))


class Trap:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('unpickled', 'w')",)


_RUN: Final = """
import sys, penstock.cli
for line in sys.argv[1:]:
    print(f"$ penstock {line}", flush=True)
    sys.argv = ["penstock", *line.split()]
    try:
        penstock.cli.main()
    except SystemExit as end:
        print(f"(exit code {end.code})", flush=True)
"""
_LOG: Final = re.compile(r"\d{4}-\d\d-\d\dT")


def printed(folder: Path, *lines: str) -> str:
    """What these command lines print in the folder, without the log and with `/models` for the folder."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *lines],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
            "PYTHONPATH": str(ROOT),
            "PENSTOCK_HTTP_PORT": "0",
            "PENSTOCK_GRPC_PORT": "off",
            "PENSTOCK_METRICS_PORT": "0",
        },
        check=True,
    )
    said = [line for line in done.stdout.splitlines() if not _LOG.match(line)]
    return (
        "\n".join(said).replace(str(folder.resolve()), "/models").replace("$ penstock", "\n$ penstock").lstrip() + "\n"
    )


def serve_each(folder: Path) -> str:
    """What `penstock serve` prints for each of them."""
    return printed(folder, *[f"serve {name}" for name in NAMES])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write_files(Path(place))
        GOLDEN.write_text(serve_each(Path(place)))
