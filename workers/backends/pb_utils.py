"""The core of Triton's `triton_python_backend_utils`, under which name model.py files import it.

Names and behaviour are Triton's. Decoupled senders, calls of other models and shared memory are left out, so that a model which
needs them fails at import or at the call, with the name in the message.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import structlog

from protocol.errors import Code
from protocol.messages import Parameters
from protocol.tensors import NUMPY_DTYPE, Array, datatype_of

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START: Final = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END: Final = 2

_TYPES: Final = [
    "", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16",
]  # fmt: skip


class TritonModelException(Exception):
    """Raised by a model: the whole batch fails with this message."""


class TritonError:
    """Why one request of a batch failed; give it to an `InferenceResponse`."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = str(message), code

    def message(self) -> str:
        """The text the caller reads."""
        return self._message

    def code(self) -> int:
        """One of the constants of this class."""
        return self._code


# With Triton, HTTP callers get 400 for UNKNOWN and ALREADY_EXISTS.
CODES: Final[dict[int, Code]] = {
    TritonError.UNKNOWN: Code.INVALID_ARGUMENT,
    TritonError.INTERNAL: Code.MODEL_FAILED,
    TritonError.NOT_FOUND: Code.NOT_FOUND,
    TritonError.INVALID_ARG: Code.INVALID_ARGUMENT,
    TritonError.UNAVAILABLE: Code.UNAVAILABLE,
    TritonError.UNSUPPORTED: Code.UNSUPPORTED,
    TritonError.ALREADY_EXISTS: Code.INVALID_ARGUMENT,
    TritonError.CANCELLED: Code.CANCELLED,
}


class Tensor:
    """A named array. BYTES are object arrays of `bytes`."""

    __slots__ = ("_array", "_name")

    def __init__(self, name: str, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise TritonModelException(f"Tensor '{name}' must be made from a numpy array, not {type(array).__name__}")
        self._name, self._array = name, array

    def name(self) -> str:
        """Its name."""
        return self._name

    def as_numpy(self) -> Array:
        """The array; a model may write to its inputs."""
        return self._array

    def shape(self) -> list[int]:
        """Its sizes."""
        return list(self._array.shape)

    def triton_dtype(self) -> int:
        """Triton's number of the datatype (1 is BOOL, 13 is BYTES)."""
        return _TYPES.index(datatype_of(self._array.dtype))

    def is_cpu(self) -> bool:
        """Always true: tensors are handed over in host memory."""
        return True

    def to_dlpack(self) -> Any:
        """A DLPack capsule that shares the array's memory; of a copy if the array is read-only, which DLPack cannot express."""
        return (self._array if self._array.flags.writeable else self._array.copy()).__dlpack__()

    @staticmethod
    def from_dlpack(name: str, source: Any) -> Tensor:
        """A tensor from any DLPack exporter (copied to host memory if it has a `cpu` method)."""
        return Tensor(name, np.from_dlpack(source.cpu() if hasattr(source, "cpu") else source))


class InferenceRequest:
    """One request as `execute` receives it."""

    __slots__ = ("_id", "_inputs", "_outputs", "_parameters", "_timeout")

    def __init__(
        self, request_id: str, inputs: Sequence[Tensor], outputs: Sequence[str], parameters: Parameters, timeout: float
    ) -> None:
        self._id, self._inputs, self._outputs = request_id, list(inputs), list(outputs)
        self._parameters, self._timeout = parameters, timeout

    def inputs(self) -> list[Tensor]:
        """Its tensors."""
        return self._inputs

    def request_id(self) -> str:
        """The caller's label."""
        return self._id

    def correlation_id(self) -> int:
        """0: sequences are not supported yet."""
        return 0

    def flags(self) -> int:
        """0: sequences are not supported yet."""
        return 0

    def timeout(self) -> int:
        """Microseconds, 0 for none."""
        return round(self._timeout * 1e6)

    def parameters(self) -> str:
        """The custom parameters as JSON."""
        return json.dumps(self._parameters)

    def requested_output_names(self) -> list[str]:
        """The outputs the caller wants."""
        return self._outputs

    def get_response_sender(self) -> Any:
        """Not supported yet: raises."""
        raise TritonModelException(
            "get_response_sender: several responses to one request (decoupled models) are not supported yet; return one "
            "InferenceResponse per request from execute"
        )

    def is_cancelled(self) -> bool:
        """Always false: a request that was cancelled before its batch was formed never gets here."""
        return False


class InferenceResponse:
    """What `execute` returns for one request: tensors, or an error."""

    __slots__ = ("_error", "_outputs", "_parameters")

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self._outputs = list(output_tensors)
        self._error = error
        self._parameters = parameters or {}
        if not all(type(value) in (str, int, bool) for value in self._parameters.values()):
            raise TritonModelException("Expected custom parameters' value to be of type string, int or bool")

    def output_tensors(self) -> list[Tensor]:
        """The outputs."""
        return self._outputs

    def without_outputs(self) -> InferenceResponse:
        """The same without its tensors; not in Triton's API."""
        return InferenceResponse((), self._error, self._parameters)

    def has_error(self) -> bool:
        """Whether it failed."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Why it failed."""
        return self._error

    def parameters(self) -> str:
        """The response's parameters as JSON."""
        return json.dumps(self._parameters)


class ModelConfig:
    """The configuration that `auto_complete_config` fills in."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._document.setdefault("input", [])
        self._document.setdefault("output", [])

    def as_dict(self) -> dict[str, Any]:
        """The configuration so far, in Triton's JSON form."""
        return self._document

    def set_max_batch_size(self, size: int) -> None:
        """Rows per batch; 0 for a model without a batch dimension. Raises ValueError below what the file states, as Triton's."""
        stated = self._document.get("max_batch_size", 0)
        if stated > size:
            raise ValueError(
                f"configuration specified max_batch_size {stated}, but in auto-complete config function for model "
                f"'{self._document.get('name', '')}' specifies max_batch_size {size}"
            )
        self._document["max_batch_size"] = size

    def set_dynamic_batching(self) -> None:
        """Batch requests, with the default settings."""
        self._document.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, policy: Mapping[str, bool]) -> None:
        """Only `{"decoupled": False}` can be served."""
        self._document["model_transaction_policy"] = dict(policy)

    def add_input(self, tensor: Mapping[str, Any]) -> None:
        """`{"name", "data_type", "dims", "optional"?}`."""
        self._add("input", tensor)

    def add_output(self, tensor: Mapping[str, Any]) -> None:
        """`{"name", "data_type", "dims"}`."""
        self._add("output", tensor)

    def _add(self, kind: str, tensor: Mapping[str, Any]) -> None:
        missing = {"name", "data_type", "dims"} - set(tensor)
        if missing:
            raise ValueError(f"{kind} needs the field(s) {', '.join(sorted(missing))}")
        for known in self._document[kind]:
            if known["name"] == tensor["name"]:
                for field in ("data_type", "dims"):
                    if known[field] != tensor[field]:
                        raise ValueError(
                            f"model configuration has {kind} '{tensor['name']}' with {field} {known[field]}"
                        )
                return
        self._document[kind].append(dict(tensor))


class Logger:
    """Writes to the worker's log."""

    INFO, WARNING, ERROR, VERBOSE = logging.INFO, logging.WARNING, logging.ERROR, logging.DEBUG

    @classmethod
    def log(cls, message: str, level: int = INFO) -> None:
        """One line at this level."""
        structlog.get_logger("model").log(level, message)

    @classmethod
    def log_info(cls, message: str) -> None:
        """One line."""
        cls.log(message, cls.INFO)

    @classmethod
    def log_warn(cls, message: str) -> None:
        """One line."""
        cls.log(message, cls.WARNING)

    @classmethod
    def log_error(cls, message: str) -> None:
        """One line."""
        cls.log(message, cls.ERROR)

    @classmethod
    def log_verbose(cls, message: str) -> None:
        """One line."""
        cls.log(message, cls.VERBOSE)


def _by_name(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    for tensor in tensors:
        if tensor.name() == name:
            return tensor
    return None


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    """The input of that name, or None."""
    return _by_name(request.inputs(), name)


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    """The output of that name, or None."""
    return _by_name(response.output_tensors(), name)


def _config_by_name(kind: str) -> Callable[[Mapping[str, Any], str], dict[str, Any] | None]:
    def find(config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
        return next((tensor for tensor in config.get(kind, []) if tensor["name"] == name), None)

    return find


get_input_config_by_name = _config_by_name("input")
get_output_config_by_name = _config_by_name("output")


def using_decoupled_model_transaction_policy(config: Mapping[str, Any]) -> bool:
    """Whether the configuration asks for decoupled responses."""
    return bool(config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_to_numpy_type(number: int) -> Any:
    """NumPy's type of Triton's datatype number."""
    return np.object_ if number == _TYPES.index("BYTES") else NUMPY_DTYPE[_TYPES[number]].type


def numpy_to_triton_type(dtype: Any) -> int:
    """Triton's datatype number of a NumPy type."""
    return _TYPES.index(datatype_of(np.dtype(dtype)))


def triton_string_to_numpy(name: str) -> Any:
    """NumPy's type of a configuration's `TYPE_…` name."""
    datatype = {"TYPE_STRING": "BYTES"}.get(name, name.removeprefix("TYPE_"))
    return np.object_ if datatype == "BYTES" else NUMPY_DTYPE[datatype].type
