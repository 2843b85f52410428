"""The kind of a file, by its first bytes and, for a zip archive, the names in it. Pure: nothing is unpickled or imported.

Invariant: a file that one of our backends can load is recognised as a kind that this backend takes, or as `UNKNOWN`.
"""

from __future__ import annotations

import codecs
import dataclasses
import enum
import re
from collections.abc import Collection
from typing import Final

from protocol.errors import quoted
from workers.repository.pickles import Content, PickleSummary

HEAD: Final = 4096
"""Bytes that `recognise` needs."""


class FileKind(enum.Enum):
    """A file's format; the value completes "it is …"."""

    UNKNOWN = "of no known format"
    EMPTY = "empty"
    LFS_POINTER = "a Git LFS pointer: the few lines that stand in for the file until Git LFS fetches it"
    HTML = "a web page (HTML), as a download returns that needs a login or another address"
    XML = "XML text, as object stores return for an error instead of a file"
    PMML = "a PMML model"
    OPENVINO = "an OpenVINO model"
    SETTINGS = "settings of a model of Hugging Face's, without the model"
    NOTEBOOK = "a Jupyter notebook"
    TEXT = "text"
    UTF16 = "text in UTF-16"
    TORCHSCRIPT = "TorchScript"
    EXPORTED = "a torch.export program"
    COMPILED = "an AOTInductor package"
    STATE_DICT = "a state dict, as torch.save writes it: weights without the model"
    CHECKPOINT = "a training checkpoint, as torch.save writes it: weights without the model"
    MODULE = "a whole model pickled by torch.save"
    TENSOR = "a tensor saved by torch.save, without a model"
    TORCH_SAVE = "the output of torch.save: weights or other data without the model, or a pickled model"
    JOBLIB = "a joblib or scikit-learn pickle"
    PICKLE = "a Python pickle"
    XGBOOST = "an XGBoost model"
    LIGHTGBM = "a LightGBM model"
    CATBOOST = "a CatBoost model"
    SAFETENSORS = "safetensors: weights without the model"
    GGUF = "a GGUF language model"
    HDF5 = "HDF5, as Keras' .h5 is"
    KERAS = "a Keras archive (.keras)"
    SAVED_MODEL = "a TensorFlow SavedModel"
    CORE_ML = "a Core ML model, which only Apple's systems run"
    TFLITE = "a TensorFlow Lite model"
    NUMPY = "NumPy arrays (.npy or .npz)"
    TENSORRT = "a TensorRT engine"
    ONNX = "an ONNX model"
    ORT = "in onnxruntime's own format (.ort)"
    TORCHSERVE = "a TorchServe archive (.mar)"
    ARCHIVE = "a compressed archive"
    ZIP = "a zip archive"
    BROKEN_ZIP = "a truncated or damaged zip archive"


_POINTERS: Final = b"version https://git-lfs", b"version https://hawser"
_PREFIXES: Final[tuple[tuple[bytes, FileKind], ...]] = (
    (b"GGUF", FileKind.GGUF),
    (b"\x89HDF\r\n\x1a\n", FileKind.HDF5),
    (b"\x93NUMPY", FileKind.NUMPY),
    (b"ftrt", FileKind.TENSORRT),
    (b"CBM1", FileKind.CATBOOST),
    (b"{L\x00\x00\x00\x00\x00\x00", FileKind.XGBOOST),  # UBJSON
    (b"binf", FileKind.XGBOOST),  # before version 1.0
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
_ONNX_FIELDS: Final = (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42")
"""The tags of what may follow the version in an ONNX model: producer, domain, its version, documentation, graph, operator sets."""
_XML: Final = ((b"<html", FileKind.HTML), (b"<pmml", FileKind.PMML), (b"<net ", FileKind.OPENVINO))
_TEXTS: Final = (
    (re.compile(rb'\{\s*"(learner"\s*:|version"\s*:\s*\[)'), FileKind.XGBOOST),
    (re.compile(rb"tree\s+version=v\d"), FileKind.LIGHTGBM),
    (re.compile(rb'\{(?=.*"(model_type|architectures|weight_map)"\s*:)', re.DOTALL), FileKind.SETTINGS),
    (re.compile(rb'\{\s*"(cells|nbformat)"'), FileKind.NOTEBOOK),
)
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
    if any(name.startswith("data/aotinductor/") for name in inner):
        return FileKind.COMPILED
    if inner & {"archive_format", "serialized_exported_program.json", "models/model.json"}:
        return FileKind.EXPORTED
    if "data.pkl" in inner:
        return FileKind.TORCH_SAVE
    if "model.weights.h5" in members:
        return FileKind.KERAS
    if "MAR-INF/MANIFEST.json" in members:
        return FileKind.TORCHSERVE
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
    if head[0] == 0x08 and head[2:3] in _ONNX_FIELDS and 0 < head[1] < 64:
        core_ml = head[2:3] == b"\x12" and _inner(head[3:]).startswith(b"\x0a")  # an ONNX producer is text
        return FileKind.CORE_ML if core_ml else FileKind.ONNX
    where, mark = _TAR
    return FileKind.ARCHIVE if head[where] == mark else FileKind.UNKNOWN


def _inner(field: bytes) -> bytes:
    """What follows the length of a field of protocol buffers."""
    return field.lstrip(bytes(range(0x80, 0x100)))[1:]


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
    if bare.startswith(b"<?xml") or b"<pmml" in bare:
        return next((kind for mark, kind in _XML if mark in bare), FileKind.XML)
    return next((kind for pattern, kind in _TEXTS if pattern.match(bare)), FileKind.TEXT)


@dataclasses.dataclass(frozen=True, slots=True)
class Recognised:
    """A file's kind.

    Attributes:
        kind: its format.
        about: of a pickled model, its class; of a checkpoint, the key of its state dict; else "".
    """

    kind: FileKind
    about: str = ""

    def __str__(self) -> str:
        """Completes "it is …"."""
        what = {FileKind.MODULE: ", of class", FileKind.CHECKPOINT: " (under the key"}.get(self.kind)
        if not what or not self.about:
            return self.kind.value
        return f"{self.kind.value}{what} {quoted(self.about)}" + (")" if "(" in what else "")


def of_pickle(found: PickleSummary) -> Recognised:
    """The kind of a file that torch.save wrote, by the pickle in it."""
    kinds = {
        Content.TENSOR: FileKind.TENSOR,
        Content.STATE_DICT: FileKind.STATE_DICT,
        Content.CHECKPOINT: FileKind.CHECKPOINT,
        Content.MODULE: FileKind.MODULE,
    }
    return Recognised(kinds.get(found.content, FileKind.TORCH_SAVE), found.name)
