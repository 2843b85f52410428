"""What a file is, by its first bytes and, of a zip archive, by the names in it. Pure: nothing is unpickled, nothing is imported.

Invariant: a file that a backend of ours can load is recognised as what that backend takes, or as `UNKNOWN`.
"""

from __future__ import annotations

import codecs
import enum
from collections.abc import Collection
from typing import Final

HEAD: Final = 4096
"""Bytes that `recognise` wants to see."""


class Kind(enum.Enum):
    """What lies in a file; the value completes "it is …"."""

    UNKNOWN = "of no format that is known here"
    EMPTY = "empty"
    LFS_POINTER = "a Git LFS pointer: the few lines that stand for the file until Git LFS fetches it"
    HTML = "a web page (HTML), as a download that needs a login or another address gives it"
    XML = "XML text, as object stores answer with an error instead of a file"
    TEXT = "text"
    UTF16 = "text in UTF-16"
    TORCHSCRIPT = "TorchScript"
    EXPORTED = "a torch.export program"
    TORCH_SAVE = "what torch.save writes: a state dict (weights without the model) or a pickled module"
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
    BROKEN_ZIP = "a zip archive that is cut short or damaged"


_POINTERS: Final = b"version https://git-lfs", b"version https://hawser"
_PREFIXES: Final[tuple[tuple[bytes, Kind], ...]] = (
    (b"GGUF", Kind.GGUF),
    (b"\x89HDF\r\n\x1a\n", Kind.HDF5),
    (b"\x93NUMPY", Kind.NUMPY),
    (b"ftrt", Kind.TENSORRT),
    (b"\x1f\x8b", Kind.ARCHIVE),  # gzip
    (b"\x28\xb5\x2f\xfd", Kind.ARCHIVE),  # zstd
    (b"\xfd7zXZ\x00", Kind.ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", Kind.ARCHIVE),
    (b"BZh", Kind.ARCHIVE),
    (b"\xff\xfe", Kind.UTF16),
    (b"\xfe\xff", Kind.UTF16),
)
_TORCH_MAGIC: Final = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch.save pickles first in its older format, after the pickle's two bytes of protocol."""
_TAR: Final = slice(257, 262), b"ustar"
_CONTROLS: Final = bytes({*range(32), 127} - {9, 10, 12, 13, 27})


def recognise(head: bytes, members: Collection[str] | None = None) -> Kind:
    """What the file is.

    Args:
        head: its first `HEAD` bytes; all of it, where it has fewer.
        members: the names in it, where it is a zip archive; None where they cannot be read.
    """
    if not head:
        return Kind.EMPTY
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Kind.BROKEN_ZIP if members is None else _archive(members)
    if head.startswith(_POINTERS):
        return Kind.LFS_POINTER
    return _text(head) or next((kind for prefix, kind in _PREFIXES if head.startswith(prefix)), None) or _deeper(head)


def _archive(members: Collection[str]) -> Kind:
    """By what only this kind of archive has; TorchScript and torch.export put all names into one folder."""
    inner = {name.partition("/")[2] for name in members} | {*members}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return Kind.TORCHSCRIPT
    if inner & {"archive_format", "serialized_exported_program.json", "models/model.json"}:
        return Kind.EXPORTED
    if "data.pkl" in inner:
        return Kind.TORCH_SAVE
    if "model.weights.h5" in members:
        return Kind.KERAS
    if members and all(name.endswith(".npy") for name in members):
        return Kind.NUMPY
    return Kind.ZIP


def _deeper(head: bytes) -> Kind:
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        if head[2:].startswith(_TORCH_MAGIC):
            return Kind.TORCH_SAVE
        return Kind.JOBLIB if b"sklearn" in head or b"joblib" in head else Kind.PICKLE
    if head[4:8] == b"TFL3":
        return Kind.TFLITE
    if head[4:8] == b"ORTM":
        return Kind.ORT
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 30:
        return Kind.SAFETENSORS
    if head.startswith(b"\x08\x01\x12") and b"tensorflow" in head.lower():
        return Kind.SAVED_MODEL
    where, mark = _TAR
    return Kind.ARCHIVE if head[where] == mark else Kind.UNKNOWN


def _text(head: bytes) -> Kind | None:
    """Which text it is, where it is one: UTF-8 that may end within a character, and no control characters."""
    if head.translate(None, _CONTROLS) != head:
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    bare = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if not bare:
        return Kind.EMPTY
    if bare.startswith((b"<!doctype html", b"<html", b"<head", b"<!-- ", b"<script")):
        return Kind.HTML
    if bare.startswith(b"<?xml"):
        return Kind.HTML if b"<html" in bare else Kind.XML
    return Kind.TEXT


_ONNX: Final = 'torch.onnx.export(model, (example,), "model.onnx", dynamo=True)'
_ADVICE: Final[dict[Kind, str]] = {
    Kind.EMPTY: "copy or export it again",
    Kind.LFS_POINTER: "run 'git lfs install && git lfs pull' where it was cloned",
    Kind.HTML: "download it again, and look at the first lines of what comes",
    Kind.XML: "download it again, and look at the first lines of what comes",
    Kind.TEXT: "copy or export it again",
    Kind.UTF16: "save it as UTF-8",
    Kind.TORCHSCRIPT: "name it .pt",
    Kind.EXPORTED: "name it .pt2",
    Kind.TORCH_SAVE: f"loading it would run code from it; where the model is at hand export it: {_ONNX}, "
    'or torch.jit.script(model).save("model.pt") with a config.pbtxt',
    Kind.JOBLIB: "loading it would run code from it; export it: pip install skl2onnx, then to_onnx(model, X[:1]), as "
    "docs/first-model.md does, or load it in a model.py of your own: penstock new NAME",
    Kind.PICKLE: "loading it would run code from it; export the model to ONNX, or load it in a model.py of your own: "
    "penstock new NAME",
    Kind.SAFETENSORS: f"load them into the model and export that: {_ONNX}, or optimum-cli export onnx --model FOLDER OUTPUT",
    Kind.GGUF: "that is for llama.cpp and its kin; no backend here runs it",
    Kind.HDF5: "convert it: pip install tf2onnx, then tf2onnx.convert.from_keras(model, output_path='model.onnx')",
    Kind.KERAS: "convert it: model.export('model.onnx', format='onnx'), or tf2onnx.convert.from_keras",
    Kind.SAVED_MODEL: "convert it: pip install tf2onnx, then python -m tf2onnx.convert --saved-model FOLDER --output model.onnx",
    Kind.TFLITE: "convert it: pip install tf2onnx, then python -m tf2onnx.convert --tflite FILE --output model.onnx",
    Kind.NUMPY: "that is data or weights without the model; export the model to ONNX",
    Kind.TENSORRT: "no backend here runs engines; serve the ONNX file that it was built from",
    Kind.ORT: "name it .onnx",
    Kind.ARCHIVE: "unpack it first",
    Kind.ZIP: "unpack it first",
    Kind.BROKEN_ZIP: "copy or export it again",
}

_TAKES: Final[dict[str, frozenset[Kind]]] = {
    ".onnx": frozenset({Kind.UNKNOWN, Kind.ORT}),
    ".pt": frozenset({Kind.TORCHSCRIPT}),
    ".pt2": frozenset({Kind.EXPORTED, Kind.ZIP}),  # what is in it differs between torch's versions
    ".py": frozenset({Kind.UNKNOWN, Kind.TEXT}),
}
_WANTED: Final = {
    ".onnx": "an ONNX model",
    ".pt": "TorchScript, a zip archive",
    ".pt2": "a torch.export program, a zip archive",
    ".py": "Python source",
}


def problem(kind: Kind, format_: str) -> str:
    """Why a file cannot be what it has to be, and what to do; "" where it may be.

    Args:
        kind: what it is.
        format_: the suffix of what it has to be: `.onnx`, `.pt`, `.pt2` or `.py`; of any other only a stand-in for the file is a
            problem.
    """
    takes = _TAKES.get(format_)
    if kind in takes if takes is not None else kind is not Kind.LFS_POINTER:
        return ""
    wanted = f" and not {_WANTED[format_]}" if format_ in _WANTED else ""
    return f"it is {kind.value}{wanted}" + (f"; {advice(kind)}" if advice(kind) else "")


def advice(kind: Kind) -> str:
    """What to do with such a file; "" where there is nothing to say."""
    return _ADVICE.get(kind, "")
