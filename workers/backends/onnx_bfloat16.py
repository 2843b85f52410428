"""bfloat16 in and out of onnxruntime, whose Python interface takes and returns NumPy arrays, which have no such type."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np

from protocol.errors import ConfigError, ModelFailed
from protocol.model_config import ModelConfig
from protocol.tensors import NUMPY_DTYPE, Array

_ONNX_TYPE: Final = 16
"""TensorProto.BFLOAT16."""


class BFloat16Run:
    """Runs a session some of whose inputs or outputs are BF16; arrays hold their bits as uint16.

    Args:
        session: of onnxruntime.
        config: of the model, complete.

    Raises:
        ConfigError: the installed onnxruntime cannot.
    """

    def __init__(self, session: Any, config: ModelConfig) -> None:
        import onnxruntime as ort

        self._session = session
        self._values = ort.OrtValue
        self._inputs, self._outputs = (
            {spec.name for spec in specs if spec.datatype == "BF16"} for specs in (config.inputs, config.outputs)
        )
        if not hasattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
            raise ConfigError(f"the installed onnxruntime has no BF16 for '{config.name}': pip install -U onnxruntime")
        if self._outputs and any(spec.datatype == "BYTES" for spec in config.inputs):
            raise ConfigError(
                f"model '{config.name}' takes text and returns BF16, which onnxruntime's Python interface cannot do in one run: "
                "cast the outputs to FP32 or FP16 in the graph"
            )

    def run(self, outputs: Sequence[str], inputs: dict[str, Array], options: Any) -> list[Array]:
        """See `InferenceSession.run`."""
        if self._outputs.isdisjoint(outputs):
            return list(self._session.run(outputs, self._fed(inputs, self._inputs), options))
        values = self._session.run_with_ort_values(outputs, self._fed(inputs, inputs), options)
        return [
            _bits(value) if name in self._outputs else value.numpy()
            for name, value in zip(outputs, values, strict=True)
        ]

    def _fed(self, inputs: dict[str, Array], as_values: Collection[str]) -> dict[str, Any]:
        return {name: self._value(name, array) if name in as_values else array for name, array in inputs.items()}

    def _value(self, name: str, array: Array) -> Any:
        """An `OrtValue` on the array's memory."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        if name in self._inputs:
            return self._values.ortvalue_from_numpy_with_onnx_type(array, _ONNX_TYPE)
        return self._values.ortvalue_from_numpy(array)


def _bits(value: Any) -> Array:
    """A copy of the bits of an `OrtValue`, of which NumPy cannot have a view."""
    if value.device_name() != "cpu":
        raise ModelFailed(f"onnxruntime left a BF16 output on the device {value.device_name()}")
    size = value.tensor_size_in_bytes()
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(data, NUMPY_DTYPE["BF16"]).reshape(value.shape())
