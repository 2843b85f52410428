"""ONNX types, as onnxruntime writes them, and the V2 datatypes for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.errors import ConfigError
from protocol.model_config.parts import TensorSpec

_DATATYPES: Final = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(string)": "BYTES", "tensor(bfloat16)": "BF16",
}  # fmt: skip
_OPTIONAL: Final = "optional("
_ZIPMAP: Final = "seq(map("


def spec_of(name: str, kind: str, shape: Sequence[object]) -> TensorSpec:
    """An input or output as a configuration states it; an optional tensor may be left out.

    Args:
        name: of the tensor.
        kind: its type, such as `tensor(float)` or `seq(map(int64,tensor(float)))`.
        shape: a number for a fixed size; anything else, such as a name, for any size.

    Raises:
        ConfigError: no V2 datatype holds it; says what to do.
    """
    tensor = kind.removeprefix(_OPTIONAL).removesuffix(")") if kind.startswith(_OPTIONAL) else kind
    datatype = _DATATYPES.get(tensor)
    if datatype is None:
        raise ConfigError(f"'{name}' is of the ONNX type {kind}, which no V2 datatype holds: {_cure(kind)}")
    dims = tuple(size if isinstance(size, int) and size > 0 else -1 for size in shape)
    return TensorSpec(name, datatype, dims, optional=tensor is not kind)


def _cure(kind: str) -> str:
    if kind.startswith(_ZIPMAP):
        return (
            "export it as a tensor, with to_onnx(model, X[:1], options={'zipmap': False}) of skl2onnx, or zipmap=False of "
            "onnxmltools; CatBoost has no such option: docs/real-models.md has lines that take it out of a file"
        )
    if "map(" in kind:
        return "export only the part of the model that takes and returns tensors, and make the tensors from the map in the caller"
    if "seq(" in kind:
        return "export each element as a tensor of its own, or all as one (ConcatFromSequence)"
    return "export it with a datatype of this list: " + ", ".join(dict.fromkeys(_DATATYPES.values()))
