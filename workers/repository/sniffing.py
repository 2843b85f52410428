"""The kind of a file, by its first bytes and, for a zip archive, the names in it. Pure: nothing is unpickled or imported.

Invariant: a file that one of our backends can load is recognised as a kind that this backend takes, or as `UNKNOWN`.
"""

from __future__ import annotations

import codecs
import dataclasses
import enum
import json
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


_ADVICE: Final[dict[FileKind, str]] = {
    FileKind.EMPTY: "copy or export it again",
    FileKind.LFS_POINTER: "run 'git lfs install && git lfs pull' where it was cloned",
    FileKind.HTML: "download it again, and check its first lines",
    FileKind.XML: "download it again, and check its first lines",
    FileKind.TEXT: "copy or export it again",
    FileKind.PMML: "no backend here runs it; export the model that it was made from to ONNX (skl2onnx for scikit-learn)",
    FileKind.OPENVINO: "no backend here runs it; serve the ONNX or PyTorch file that it was made from",
    FileKind.NOTEBOOK: "put the model's code into a model.py: penstock new NAME",
    FileKind.XGBOOST: "convert it: pip install onnxmltools, then",
    FileKind.LIGHTGBM: "convert it: pip install onnxmltools, then",
    FileKind.CATBOOST: "export it: model.save_model('model.onnx', format='onnx')",
    FileKind.UTF16: "save it as UTF-8",
    FileKind.STATE_DICT: "give the weights to your model's class, and export that",
    FileKind.CHECKPOINT: "give the weights to your model's class, and export that",
    FileKind.MODULE: "loading it would run code from it; export it where its class can be imported",
    FileKind.TENSOR: "export the model that it belongs to",
    FileKind.TORCH_SAVE: "loading it might run code from it; load it where it was made, and export the model",
    FileKind.JOBLIB: "loading it would run code from it; export it: pip install skl2onnx, then to_onnx(model, X[:1]), as "
    "docs/first-model.md does, or load it in a model.py of your own: penstock new NAME",
    FileKind.PICKLE: "loading it would run code from it; export the model to ONNX, or load it in a model.py of your own: "
    "penstock new NAME",
    FileKind.SAFETENSORS: "for a model of Hugging Face's: optimum-cli export onnx --model FOLDER OUTPUT; for others, give the "
    "weights to your model's class, and export that",
    FileKind.GGUF: "that is for llama.cpp and similar programs; no backend here runs it",
    FileKind.HDF5: "convert it: pip install tf2onnx, then tf2onnx.convert.from_keras(model, output_path='model.onnx')",
    FileKind.KERAS: "convert it: model.export('model.onnx', format='onnx'), or tf2onnx.convert.from_keras",
    FileKind.SAVED_MODEL: "convert it: pip install tf2onnx, then python -m tf2onnx.convert --saved-model FOLDER "
    "--output model.onnx",
    FileKind.CORE_ML: "export the model that it was made from to ONNX",
    FileKind.TFLITE: "convert it: pip install tf2onnx, then python -m tf2onnx.convert --tflite FILE --output model.onnx",
    FileKind.NUMPY: "that is data or weights without the model; export the model to ONNX",
    FileKind.TENSORRT: "no backend here runs engines; serve the ONNX file that it was built from",
    FileKind.ARCHIVE: "unpack it first",
    FileKind.ZIP: "unpack it first",
    FileKind.BROKEN_ZIP: "copy or export it again",
}

_TAKES: Final[dict[str, frozenset[FileKind]]] = {
    ".onnx": frozenset({FileKind.UNKNOWN, FileKind.ONNX, FileKind.ORT}),
    ".pt": frozenset({FileKind.TORCHSCRIPT}),
    ".pt2": frozenset({FileKind.EXPORTED, FileKind.COMPILED}),
    ".py": frozenset({FileKind.UNKNOWN, FileKind.TEXT}),
}
_WANTED: Final = {
    ".onnx": "an ONNX model",
    ".pt": "TorchScript",
    ".pt2": "a torch.export program",
    ".py": "Python source",
}
_SUFFIXES: Final = {
    FileKind.ONNX: ".onnx", FileKind.ORT: ".ort", FileKind.TORCHSCRIPT: ".pt", FileKind.EXPORTED: ".pt2", FileKind.COMPILED: ".pt2",
}  # fmt: skip
"""Of the kinds that are served."""
_CLASS: Final = "Net"
"""A name for the model's class in a snippet."""
_EXPORT: Final = (
    'program = torch.export.export(model, (torch.zeros(2, 4),), dynamic_shapes=({{0: torch.export.Dim("rows")}},))'
    "  # 2, 4: an example's shape\n"
    'torch.export.save(program, "{stem}.pt2")  # then: penstock serve {stem}.pt2'
)
_WEIGHTS: Final = "model = {cls}(); model.load_state_dict({weights}); model.eval()  # {cls}: your model's class\n"
_SNIPPETS: Final[dict[FileKind, str]] = {
    FileKind.STATE_DICT: _WEIGHTS.replace("{weights}", 'torch.load("{name}", weights_only=True)'),
    FileKind.CHECKPOINT: _WEIGHTS.replace("{weights}", 'torch.load("{name}")["{about}"]'),
    FileKind.SAFETENSORS: _WEIGHTS.replace("{weights}", 'safetensors.torch.load_file("{name}")'),
    FileKind.MODULE: 'model = torch.load("{name}", weights_only=False).eval()  # runs code from the file: only if you trust it\n',
}

_TREES: Final = (
    "import onnx, onnxmltools, {library}; from onnxmltools.convert.common.data_types import FloatTensorType\n"
    'program = onnxmltools.convert_{library}({library}.Booster(model_file="{{name}}"), '
    'initial_types=[("X", FloatTensorType([None, 4]))]{more})  # 4: its columns\n'
    'onnx.save(program, "{{stem}}.onnx")  # then: penstock serve {{stem}}.onnx'
)
_CONVERSIONS: Final[dict[FileKind, str]] = {
    FileKind.XGBOOST: _TREES.format(library="xgboost", more=""),
    FileKind.LIGHTGBM: _TREES.format(library="lightgbm", more=", zipmap=False"),
}


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


def format_problem(found: Recognised, format_: str) -> str:
    """Why a file is not in the required format, and what to do, as "is …"; "" if it may be.

    Args:
        found: what the file is.
        format_: the required format's suffix: `.onnx`, `.pt`, `.pt2` or `.py`; for others only a Git LFS pointer is a problem.
    """
    kind = found.kind
    takes = _TAKES.get(format_)
    if kind in takes if takes is not None else kind is not FileKind.LFS_POINTER:
        return ""
    wanted = f"not {_WANTED[format_]} but " if format_ in _WANTED and kind is not FileKind.EMPTY else ""
    return f"is {wanted}{found}" + (f"; {advice(kind)}" if advice(kind) else "")


def snippet(found: Recognised, name: str) -> str:
    """Lines of Python that make a file to serve out of this one; "" if it takes more than that.

    Args:
        found: what the file is.
        name: of the file.
    """
    template = _CONVERSIONS.get(found.kind) or _SNIPPETS.get(found.kind, "") + _EXPORT
    if template == _EXPORT:
        return ""
    shown, stem = (json.dumps(text, ensure_ascii=False)[1:-1] for text in (name, name.rpartition(".")[0] or name))
    about = json.dumps(found.about, ensure_ascii=False)[1:-1]
    return template.format(cls=_CLASS, name=shown, stem=stem, about=about)


def advice(kind: FileKind) -> str:
    """What to do with such a file; "" for no advice."""
    return f"name it {suffix(kind)}" if suffix(kind) else _ADVICE.get(kind, "")


def suffix(kind: FileKind) -> str:
    """The suffix with which a file of this kind is served; "" if none is."""
    return _SUFFIXES.get(kind, "")
