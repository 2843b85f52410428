"""What a folder is that holds a model in another tool's layout, or a model of ours in another place than was meant."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from penstock.paths import entries
from workers.repository.completion import FILE_BACKEND
from workers.repository.folders import CONFIG_FILE

_WEIGHTS: Final = (".safetensors", ".bin", ".h5", ".msgpack")


def of_others(folder: Path) -> str:
    """What it is and what to do with it, as "it …", for a folder that cannot be read, or whose files only others load; else ""."""
    try:
        if (folder / "saved_model.pb").is_file():
            return (
                "it is a TensorFlow SavedModel: pip install tf2onnx && "
                f"python -m tf2onnx.convert --saved-model {quoted(folder)} --output model.onnx, then serve model.onnx"
            )
        if (folder / "Data/com.apple.CoreML").is_dir():
            return "it is a Core ML package, which only Apple's systems run; export the model that it was made from to ONNX"
        os.scandir(folder).close()
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


def without_a_file(folder: Path) -> str:
    """The same for a folder in which no model file lies; "" for a folder of no known kind.

    Args:
        folder: can be read.
    """
    return next(_descriptions(folder, {entry.name: entry for entry in entries(folder)}), "")


def _descriptions(folder: Path, names: dict[str, Path]) -> Iterator[str]:
    if CONFIG_FILE in names or any(name.isdecimal() and _usual_file(names[name]) for name in names):
        above = folder.absolute().parent
        yield f"it is a model of the repository above it: penstock serve --model-repository {quoted(above)}"
    if (inside := names.get("onnx")) and (file := _onnx_file(inside)):
        yield f"serve the file in it: penstock serve {quoted(file)}"
    if "config.json" in names and any(name.endswith(_WEIGHTS) for name in names):
        yield (
            "it is a model of Hugging Face's with weights and without ONNX; export it: optimum-cli export onnx --model "
            f"{quoted(folder)} OUTPUT, then penstock serve OUTPUT/model.onnx"
        )
    if "MLmodel" in names:
        yield (
            "it is an MLflow model: export the model in it to ONNX, or load it in a model.py of your own with "
            "mlflow.pyfunc.load_model: penstock new NAME"
        )
    if any(name.endswith(".xml") and f"{name[:-4]}.bin" in names for name in names):
        yield "it is an OpenVINO model, which no backend here runs; serve the ONNX or PyTorch file that it was made from"


def _usual_file(folder: Path) -> Path | None:
    """The file in a version's folder that would be loaded."""
    return next((folder / name for name in FILE_BACKEND if (folder / name).is_file()), None)


def _onnx_file(folder: Path) -> Path | None:
    """As Hugging Face's exporters lay them out: model.onnx, with other precisions beside it."""
    return _usual_file(folder) or next(iter(sorted(folder.glob("*.onnx"))), None)


def quoted(path: Path) -> str:
    """A path as a shell takes it, and no command takes for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
