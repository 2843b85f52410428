"""Why a file of some kind is not what a backend loads, and what to do with it. Pure."""

from __future__ import annotations

import json
from typing import Final

from workers.repository.sniffing import FileKind, Recognised

_ADVICE: Final[dict[FileKind, str]] = {
    FileKind.EMPTY: "copy or export it again",
    FileKind.LFS_POINTER: "run 'git lfs install && git lfs pull' where it was cloned",
    FileKind.HTML: "download it again, and check its first lines",
    FileKind.XML: "download it again, and check its first lines",
    FileKind.TEXT: "copy or export it again",
    FileKind.PMML: "no backend here runs it; export the model that it was made from to ONNX (skl2onnx for scikit-learn)",
    FileKind.OPENVINO: "no backend here runs it; serve the ONNX or PyTorch file that it was made from",
    FileKind.SETTINGS: "export the folder that it is in: optimum-cli export onnx --model FOLDER OUTPUT",
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
    FileKind.TORCHSERVE: "unpack it, and serve the model file in it; what its handler does becomes a model.py: penstock new NAME",
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
