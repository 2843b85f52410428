"""The kind of a file, by its first bytes and, for a zip archive, the names in it. Pure: nothing is unpickled or imported.

Invariant: a file that one of our backends can load is recognised as a kind that this backend takes, or as `UNKNOWN`.
"""

from __future__ import annotations

import codecs
import enum
from collections.abc import Collection
from typing import Final

HEAD: Final = 4096
"""Bytes that `recognise` needs."""


class FileKind(enum.Enum):
    """A file's format; the value completes "it is …"."""

    UNKNOWN = "of no known format"
    EMPTY = "empty"
    LFS_POINTER = "a Git LFS pointer: the few lines that stand in for the file until Git LFS fetches it"
    HTML = "a web page (HTML), as a download returns that needs a login or another address"
    XML = "XML text, as object stores return for an error instead of a file"
    TEXT = "text"
    UTF16 = "text in UTF-16"
    TORCHSCRIPT = "TorchScript"
    EXPORTED = "a torch.export program"
    TORCH_SAVE = "the output of torch.save: a state dict (weights without the model) or a pickled module"
    JOBLIB = "a joblib or scikit-learn pickle"
    PICKLE = "a Python pickle"
    SAFETENSORS = "safetensors: weights without the model"
    GGUF = "a GGUF language model"
    HDF5 = "HDF5, as Keras' .h5 is"
    KERAS = "a Keras archive (.keras)"
    SAVED_MODEL = "a TensorFlow SavedModel"
    TFLITE = "a TensorFlow Lite model"
    NUMPY = "NumPy arrays (.npy or .npz)"
    TENSORRT = "a TensorRT engine"
    ORT = "in onnxruntime's own format (.ort)"
    ARCHIVE = "a compressed archive"
    ZIP = "a zip archive"
    BROKEN_ZIP = "a truncated or damaged zip archive"


_POINTERS: Final = b"version https://git-lfs", b"version https://hawser"
_PREFIXES: Final[tuple[tuple[bytes, FileKind], ...]] = (
    (b"GGUF", FileKind.GGUF),
    (b"\x89HDF\r\n\x1a\n", FileKind.HDF5),
    (b"\x93NUMPY", FileKind.NUMPY),
    (b"ftrt", FileKind.TENSORRT),
    (b"\x1f\x8b", FileKind.ARCHIVE),  # gzip
    (b"\x28\xb5\x2f\xfd", FileKind.ARCHIVE),  # zstd
    (b"\xfd7zXZ\x00", FileKind.ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", FileKind.ARCHIVE),
    (b"BZh", FileKind.ARCHIVE),
    (b"\xff\xfe", FileKind.UTF16),
    (b"\xfe\xff", FileKind.UTF16),
)
_TORCH_MAGIC: Final = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first thing that torch.save's older format pickles, after the two bytes of the pickle's protocol."""
_TAR: Final = slice(257, 262), b"ustar"
_CONTROLS: Final = bytes({*range(32), 127} - {9, 10, 12, 13, 27})


def recognise(head: bytes, members: Collection[str] | None = None) -> FileKind:
    """The kind of a file.

    Args:
        head: its first `HEAD` bytes, or all of a shorter file.
        members: the names in a zip archive; None if they cannot be read.
    """
    if not head:
        return FileKind.EMPTY
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return FileKind.BROKEN_ZIP if members is None else _archive(members)
    if head.startswith(_POINTERS):
        return FileKind.LFS_POINTER
    return _text(head) or next((kind for prefix, kind in _PREFIXES if head.startswith(prefix)), None) or _deeper(head)


def _archive(members: Collection[str]) -> FileKind:
    """By members that only one kind of archive has; TorchScript and torch.export put all names into one folder."""
    inner = {name.partition("/")[2] for name in members} | {*members}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return FileKind.TORCHSCRIPT
    if inner & {"archive_format", "serialized_exported_program.json", "models/model.json"}:
        return FileKind.EXPORTED
    if "data.pkl" in inner:
        return FileKind.TORCH_SAVE
    if "model.weights.h5" in members:
        return FileKind.KERAS
    if members and all(name.endswith(".npy") for name in members):
        return FileKind.NUMPY
    return FileKind.ZIP


def _deeper(head: bytes) -> FileKind:
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        if head[2:].startswith(_TORCH_MAGIC):
            return FileKind.TORCH_SAVE
        return FileKind.JOBLIB if b"sklearn" in head or b"joblib" in head else FileKind.PICKLE
    if head[4:8] == b"TFL3":
        return FileKind.TFLITE
    if head[4:8] == b"ORTM":
        return FileKind.ORT
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 30:
        return FileKind.SAFETENSORS
    if head.startswith(b"\x08\x01\x12") and b"tensorflow" in head.lower():
        return FileKind.SAVED_MODEL
    where, mark = _TAR
    return FileKind.ARCHIVE if head[where] == mark else FileKind.UNKNOWN


def _text(head: bytes) -> FileKind | None:
    """The kind of text; None if it is not UTF-8 (which may be cut within a character) or has control characters."""
    if head.translate(None, _CONTROLS) != head:
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    bare = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if not bare:
        return FileKind.EMPTY
    if bare.startswith((b"<!doctype html", b"<html", b"<head", b"<!-- ", b"<script")):
        return FileKind.HTML
    if bare.startswith(b"<?xml"):
        return FileKind.HTML if b"<html" in bare else FileKind.XML
    return FileKind.TEXT


_ONNX: Final = 'torch.onnx.export(model, (example,), "model.onnx", dynamo=True)'
_ADVICE: Final[dict[FileKind, str]] = {
    FileKind.EMPTY: "copy or export it again",
    FileKind.LFS_POINTER: "run 'git lfs install && git lfs pull' where it was cloned",
    FileKind.HTML: "download it again, and check its first lines",
    FileKind.XML: "download it again, and check its first lines",
    FileKind.TEXT: "copy or export it again",
    FileKind.UTF16: "save it as UTF-8",
    FileKind.TORCHSCRIPT: "name it .pt",
    FileKind.EXPORTED: "name it .pt2",
    FileKind.TORCH_SAVE: f"loading it would run code from it; if you have the model, export it: {_ONNX}, "
    'or torch.jit.script(model).save("model.pt") with a config.pbtxt',
    FileKind.JOBLIB: "loading it would run code from it; export it: pip install skl2onnx, then to_onnx(model, X[:1]), as "
    "docs/first-model.md does, or load it in a model.py of your own: penstock new NAME",
    FileKind.PICKLE: "loading it would run code from it; export the model to ONNX, or load it in a model.py of your own: "
    "penstock new NAME",
    FileKind.SAFETENSORS: f"load them into the model and export that: {_ONNX}, or optimum-cli export onnx --model FOLDER OUTPUT",
    FileKind.GGUF: "that is for llama.cpp and similar programs; no backend here runs it",
    FileKind.HDF5: "convert it: pip install tf2onnx, then tf2onnx.convert.from_keras(model, output_path='model.onnx')",
    FileKind.KERAS: "convert it: model.export('model.onnx', format='onnx'), or tf2onnx.convert.from_keras",
    FileKind.SAVED_MODEL: "convert it: pip install tf2onnx, then python -m tf2onnx.convert --saved-model FOLDER "
    "--output model.onnx",
    FileKind.TFLITE: "convert it: pip install tf2onnx, then python -m tf2onnx.convert --tflite FILE --output model.onnx",
    FileKind.NUMPY: "that is data or weights without the model; export the model to ONNX",
    FileKind.TENSORRT: "no backend here runs engines; serve the ONNX file that it was built from",
    FileKind.ORT: "name it .onnx",
    FileKind.ARCHIVE: "unpack it first",
    FileKind.ZIP: "unpack it first",
    FileKind.BROKEN_ZIP: "copy or export it again",
}

_TAKES: Final[dict[str, frozenset[FileKind]]] = {
    ".onnx": frozenset({FileKind.UNKNOWN, FileKind.ORT}),
    ".pt": frozenset({FileKind.TORCHSCRIPT}),
    ".pt2": frozenset({FileKind.EXPORTED, FileKind.ZIP}),  # its members differ between torch versions
    ".py": frozenset({FileKind.UNKNOWN, FileKind.TEXT}),
}
_WANTED: Final = {
    ".onnx": "an ONNX model",
    ".pt": "TorchScript, a zip archive",
    ".pt2": "a torch.export program, a zip archive",
    ".py": "Python source",
}


def format_problem(kind: FileKind, format_: str) -> str:
    """Why a file is not in the required format, and what to do; "" if it may be.

    Args:
        kind: the file's.
        format_: the required format's suffix: `.onnx`, `.pt`, `.pt2` or `.py`; for others only a Git LFS pointer is a problem.
    """
    takes = _TAKES.get(format_)
    if kind in takes if takes is not None else kind is not FileKind.LFS_POINTER:
        return ""
    wanted = f" and not {_WANTED[format_]}" if format_ in _WANTED else ""
    return f"it is {kind.value}{wanted}" + (f"; {advice(kind)}" if advice(kind) else "")


def advice(kind: FileKind) -> str:
    """What to do with such a file; "" for no advice."""
    return _ADVICE.get(kind, "")
