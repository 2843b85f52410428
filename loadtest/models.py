"""The benchmark's models, written as a Triton model repository from fixed seeds.

`addsub` costs nothing, so it measures the server; `encoder` is compute-bound, so batching pays little; `mlp` reads 34 MB of
weights per call, so batching pays most; `mlp-half` has one of its two large layers, so the server's share is twice as visible.
All run on one CPU thread. `encoder-onnx` is the encoder as ONNX; `image` negates an image of 602 KB and `image-8mb` one of 8
MB, so they measure the transport of large tensors. Models named `…-python` are Python models of Triton's kind that give the
same answers, so that Triton runs the same source; those of mlp and encoder call the same ONNX file. `encoder-gpu` and `mlp-gpu`
run on a GPU; `base-gpu` is an encoder of BERT-base's size in half precision, which keeps a GPU busy. The files are made on
demand and never committed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadtest.payloads import TOLERANCE, InputSpec

VOCABULARY: Final = 1000
TOKENS: Final = 32
LARGE_TOKENS: Final = 128
IMAGE: Final = (3, 224, 224)
"""Its float32 tensor has 602,112 bytes."""
LARGE_IMAGE: Final = (8, 500, 500)
"""Its float32 tensor has 8,000,000 bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class BenchModel:
    """One model of the benchmark.

    Attributes:
        name: folder and model name.
        file: the model file's name inside version 1.
        inputs: the inputs of one request, with a batch dimension of 1.
        outputs: names, in the order in which the model returns them.
        config: the text of config.pbtxt.
        write: makes the model file at a path.
        twin: name of a model that gives the same answers and, unlike this one, can be called directly; "" for itself.
        has_limit: whether calling it directly bounds a server; false if the call costs next to nothing.
        tolerance: how far an answer may be from the reference's: batches of other sizes round differently.
        binary: whether its tensors travel as bytes, both ways, and not as JSON.
    """

    name: str
    file: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    config: str
    write: Callable[[Path], None]
    has_limit: bool = True
    twin: str = ""
    tolerance: float = TOLERANCE
    binary: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU, also when it is called directly."""
        return "KIND_GPU" in self.config


def write_repository(folder: Path, names: Iterable[str] | None = None) -> Path:
    """Write the named models (all if none are named) below `folder`, unless they exist, and return it.

    Raises:
        ModuleNotFoundError: `onnx` or `torch` is not installed.
    """
    for name in names or MODELS:
        model = ALL[name]
        target = folder / name / "1" / model.file
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / name / "config.pbtxt").write_text(model.config)
        if not target.exists():
            partial = target.with_suffix(".partial")
            model.write(partial)
            partial.replace(target)
    return folder


def write_copies(folder: Path, count: int) -> list[str]:
    """Write `count` copies of addsub named idle-000, idle-001, … for measuring idle models; returns their names."""
    addsub = MODELS["addsub"]
    names = [f"idle-{index:03d}" for index in range(count)]
    for name in names:
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
        addsub.write(folder / name / "1" / addsub.file)
        text = addsub.config.replace('name: "addsub"', f'name: "{name}"')
        (folder / name / "config.pbtxt").write_text(text)
    return names


def _write_addsub(path: Path) -> None:
    from onnx import TensorProto, helper

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16])

    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    inputs, outputs = [value("INPUT0"), value("INPUT1")], [value("OUTPUT0"), value("OUTPUT1")]
    _save_onnx(helper.make_graph(nodes, "addsub", inputs, outputs), path)


_ELEMENTWISE_PYTHON: Final = """\
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            %s
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses
"""
_ADDSUB_LINES: Final = """\
left = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            right = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            outputs = [pb_utils.Tensor("OUTPUT0", left + right), pb_utils.Tensor("OUTPUT1", left - right)]"""
_IMAGE_LINES: Final = """\
image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
            outputs = [pb_utils.Tensor("negative", -image)]"""

_SESSION_PYTHON: Final = """\
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "ids").as_numpy() for request in requests]
        (scores,) = self.session.run(["scores"], {"ids": np.concatenate(inputs)})
        responses, begin = [], 0
        for rows in map(len, inputs):
            output = pb_utils.Tensor("scores", scores[begin : begin + rows])
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
            begin += rows
        return responses
"""


def _write_addsub_python(path: Path) -> None:
    path.write_text(_ELEMENTWISE_PYTHON % _ADDSUB_LINES)


def _write_image_python(path: Path) -> None:
    path.write_text(_ELEMENTWISE_PYTHON % _IMAGE_LINES)


def _write_session_python(path: Path, write_onnx: Callable[[Path], None]) -> None:
    """A model.py and, beside it, the model.onnx that it calls."""
    write_onnx(path.with_name("model.onnx"))
    path.write_text(_SESSION_PYTHON)


def _write_image(path: Path, shape: tuple[int, ...] = IMAGE) -> None:
    from onnx import TensorProto, helper

    names = ("image", "negative")
    image, negative = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name in names)
    _save_onnx(
        helper.make_graph([helper.make_node("Neg", ["image"], ["negative"])], "image", [image], [negative]), path
    )


def _write_mlp(path: Path, layers: int = 2) -> None:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(2)
    sizes = [TOKENS * 64, *[2048] * layers, 16]
    weights = {"embedding": random.normal(0, 1, (VOCABULARY, 64)).astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["embedding", "ids"], ["embedded"]),
        helper.make_node("Flatten", ["embedded"], ["hidden0"], axis=1),
    ]
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights[f"weight{layer}"] = random.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)
        weights[f"bias{layer}"] = np.zeros(columns, np.float32)
        last = layer == len(sizes) - 2
        product = "scores" if last else f"product{layer}"
        nodes.append(helper.make_node("Gemm", [f"hidden{layer}", f"weight{layer}", f"bias{layer}"], [product]))
        if not last:
            nodes.append(helper.make_node("Relu", [product], [f"hidden{layer + 1}"]))
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", TOKENS])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 16])]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    _save_onnx(helper.make_graph(nodes, "mlp", inputs, outputs, initializers), path)


def _save_onnx(graph: Any, path: Path) -> None:
    import onnx
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _write_encoder(path: Path, *, large: bool = False) -> None:
    import torch

    from loadtest.encoder import Encoder

    torch.manual_seed(3)
    tokens = LARGE_TOKENS if large else TOKENS
    module = Encoder(VOCABULARY, 768, 12, heads=12, tokens=tokens) if large else Encoder(VOCABULARY)
    with torch.inference_mode():
        traced = torch.jit.trace(module.eval(), torch.arange(2 * tokens).reshape(2, tokens))
    (traced.half() if large else traced).save(str(path))


def _write_encoder_onnx(path: Path) -> None:
    import torch

    from loadtest.encoder import Encoder

    torch.manual_seed(3)
    batch = {"ids": {0: "batch"}, "scores": {0: "batch"}}
    with warnings.catch_warnings():  # the exporter that replaces this one needs packages that nothing else here needs
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Encoder(VOCABULARY).eval(), (torch.arange(2 * TOKENS).reshape(2, TOKENS),), str(path), dynamo=False,
            input_names=["ids"], output_names=["scores"], dynamic_axes=batch, opset_version=17,
        )  # fmt: skip


_IDS: Final = InputSpec("ids", "INT64", (1, TOKENS), high=VOCABULARY)

_ADDSUB_CONFIG: Final = """\
name: "addsub"
backend: "onnxruntime"
max_batch_size: 256
input [
  { name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] },
  { name: "INPUT1" data_type: TYPE_FP32 dims: [ 16 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] },
  { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 16 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { }
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
"""

_MLP_CONFIG: Final = """\
name: "%s"
backend: "onnxruntime"
max_batch_size: 32
input [ { name: "ids" data_type: TYPE_INT64 dims: [ 32 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 16 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 3000 }
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
"""

_IMAGE_CONFIG: Final = """\
name: "image"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "image" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] } ]
output [ { name: "negative" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { }
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
"""

_ENCODER_CONFIG: Final = """\
name: "encoder"
backend: "pytorch"
max_batch_size: 32
input [ { name: "INPUT__0" data_type: TYPE_INT64 dims: [ 32 ] } ]
output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 16 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 3000 }
parameters { key: "INTRA_OP_THREAD_COUNT" value: { string_value: "1" } }
"""

MODELS: Final = {
    "addsub": BenchModel(
        "addsub",
        "model.onnx",
        (InputSpec("INPUT0", "FP32", (1, 16)), InputSpec("INPUT1", "FP32", (1, 16))),
        ("OUTPUT0", "OUTPUT1"),
        _ADDSUB_CONFIG,
        _write_addsub,
        has_limit=False,
    ),
    "encoder": BenchModel(
        "encoder",
        "model.pt",
        (dataclasses.replace(_IDS, name="INPUT__0"),),
        ("OUTPUT__0",),
        _ENCODER_CONFIG,
        _write_encoder,
    ),
    "mlp": BenchModel("mlp", "model.onnx", (_IDS,), ("scores",), _MLP_CONFIG % "mlp", _write_mlp),
    "mlp-half": BenchModel(
        "mlp-half",
        "model.onnx",
        (_IDS,),
        ("scores",),
        _MLP_CONFIG % "mlp-half",
        functools.partial(_write_mlp, layers=1),
    ),
}
"""The benchmark's models by name."""


def _gpu_variant(of: str, **changed: Any) -> BenchModel:
    """A model of the same files on the GPU."""
    model = MODELS[of]
    config = model.config.replace(f'"{of}"', f'"{of}-gpu"').replace("KIND_CPU", "KIND_GPU")
    return dataclasses.replace(model, **{"name": f"{of}-gpu", "config": config, **changed})


GPU_MODELS: Final = {
    model.name: model
    for model in (
        _gpu_variant("encoder"),
        _gpu_variant("mlp", tolerance=1e-2),  # onnxruntime multiplies in TF32 on GPUs
        _gpu_variant(
            "encoder",
            name="base-gpu",
            inputs=(dataclasses.replace(_IDS, name="INPUT__0", shape=(1, LARGE_TOKENS)),),
            config=_ENCODER_CONFIG.replace('"encoder"', '"base-gpu"')
            .replace("KIND_CPU", "KIND_GPU")
            .replace(f"dims: [ {TOKENS} ]", f"dims: [ {LARGE_TOKENS} ]"),
            write=functools.partial(_write_encoder, large=True),
            tolerance=5e-2,  # half precision
        ),
    )
}
"""Those that need a GPU, by name."""


def _python_twin(of: BenchModel, write: Callable[[Path], None]) -> BenchModel:
    """The same model as model.py, with the same configuration but for the backend."""
    config = of.config.replace('"onnxruntime"', '"python"').replace(f'"{of.name}"', f'"{of.name}-python"', 1)
    return dataclasses.replace(of, name=f"{of.name}-python", file="model.py", config=config, write=write, twin=of.name)


_ENCODER_ONNX: Final = dataclasses.replace(
    MODELS["mlp"], name="encoder-onnx", config=_MLP_CONFIG % "encoder-onnx", write=_write_encoder_onnx
)
_IMAGE_MODEL: Final = BenchModel(
    "image",
    "model.onnx",
    (InputSpec("image", "FP32", (1, *IMAGE)),),
    ("negative",),
    _IMAGE_CONFIG,
    _write_image,
    has_limit=False,
    binary=True,
)
_LARGE_IMAGE_MODEL: Final = dataclasses.replace(
    _IMAGE_MODEL,
    name="image-8mb",
    inputs=(InputSpec("image", "FP32", (1, *LARGE_IMAGE)),),
    config=_IMAGE_CONFIG.replace('"image"', '"image-8mb"', 1).replace("3, 224, 224", "8, 500, 500"),
    write=functools.partial(_write_image, shape=LARGE_IMAGE),
)
COMPARED_MODELS: Final = {
    model.name: model
    for model in (
        MODELS["addsub"],
        _python_twin(MODELS["addsub"], _write_addsub_python),
        MODELS["mlp"],
        _python_twin(MODELS["mlp"], functools.partial(_write_session_python, write_onnx=_write_mlp)),
        _ENCODER_ONNX,
        _python_twin(_ENCODER_ONNX, functools.partial(_write_session_python, write_onnx=_write_encoder_onnx)),
        _IMAGE_MODEL,
        _python_twin(_IMAGE_MODEL, _write_image_python),
        _LARGE_IMAGE_MODEL,
        _python_twin(_LARGE_IMAGE_MODEL, _write_image_python),
    )
}
"""Those that are compared with other servers, by name: each as ONNX and as model.py."""
ALL: Final = MODELS | GPU_MODELS | COMPARED_MODELS
