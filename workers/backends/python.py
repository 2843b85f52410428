"""Models written in Python: Triton's `TritonPythonModel` class, or the short form `class Model` with one method `predict`.

Triton's class gets the batch's requests as they are and answers each. The short form gets stacked arrays by name, rows first, and
returns arrays by name: `def predict(self, **inputs) -> dict[str, ndarray]`; it states its tensors as class attributes, for example
`inputs = {"TEXT": ("BYTES", [1])}`, `outputs = {"SCORE": ("FP32", [1])}` and optionally `max_batch_size = 32`.

Instances are child processes (`workers.children`) unless the configuration's parameter `instance_isolation` says `thread`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from protocol.errors import Code, ConfigError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import Array, from_array
from workers.backends import pb_utils
from workers.backends.base import Instance, Outcome
from workers.backends.tensor_instance import TensorInstance
from workers.placement import Placement
from workers.repository import BackendMetadata, ModelVersion

_IMPORT_LOCK: Final = threading.Lock()
_SHORT_FORM: Final = "Model"
_TRITON_FORM: Final = "TritonPythonModel"


class PythonBackend:
    """Loads `model.py`. Importing user code runs it: a repository is trusted as much as a server's own code.

    Attributes:
        alone: this process runs nothing but one model: the modules beside it stay importable, also while it runs.
    """

    alone = False

    def inspect(self, version: ModelVersion) -> BackendMetadata | None:
        """What the class says of its tensors: `auto_complete_config`, or the short form's attributes."""
        model_class = _model_class(version, alone=self.alone)
        if model_class.__name__ == _SHORT_FORM:
            return _stated(model_class, version)
        complete = getattr(model_class, "auto_complete_config", None)
        if complete is None:
            return None
        document = version.config.to_json()
        with _at(version, "auto_complete_config"):
            completed = complete(pb_utils.ModelConfig(document))
        if not isinstance(completed, pb_utils.ModelConfig):
            raise ConfigError(f"auto_complete_config of model '{version.model}' must return its argument")
        config = ModelConfig.from_json(completed.as_dict())
        return BackendMetadata(config.inputs, config.outputs, config.max_batch_size > 0, config.max_batch_size)

    def usable_gpus(self, gpus: Sequence[int]) -> Sequence[int]:
        """All: what runs on them is the model's own code."""
        return gpus

    def load(self, version: ModelVersion, placement: Placement) -> Instance:
        """Import the file afresh, make the object, call `initialize` where it has one."""
        model_class = _model_class(version, alone=self.alone)
        with _at(version, "__init__"):
            model = model_class()
        if model_class.__name__ == _SHORT_FORM:
            return ShortFormInstance(version.config, placement, model)
        if not callable(getattr(model, "execute", None)):
            raise ConfigError(f"{_TRITON_FORM} of model '{version.model}' has no 'execute' method")
        if hasattr(model, "initialize"):
            with _at(version, "initialize"):
                model.initialize(_arguments(version, placement))
        return TritonFormInstance(version.config, placement, model)


class ShortFormInstance(TensorInstance):
    """`Model.predict` with stacked inputs."""

    def __init__(self, config: ModelConfig, placement: Placement, model: Any) -> None:
        super().__init__(config)
        self._name, self._model = placement.name, model

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """One call for the whole batch."""
        answer = self._model.predict(**inputs)
        if not isinstance(answer, dict):
            raise ModelFailed(f"predict of '{self._name}' must return a dict of arrays, not {type(answer).__name__}")
        return {name: np.asarray(value) for name, value in answer.items()}

    def close(self) -> None:
        """Let go of the model, after its `close` where it has one."""
        if hasattr(self._model, "close"):
            self._model.close()
        self._model = None


class TritonFormInstance:
    """`TritonPythonModel.execute` with the batch's requests."""

    def __init__(self, config: ModelConfig, placement: Placement, model: Any) -> None:
        self._name, self._model = placement.name, model
        self._outputs = tuple(spec.name for spec in config.outputs)
        self._datatypes = {spec.name: spec.datatype for spec in config.outputs}

    def prepare(self, requests: Sequence[InferRequest]) -> list[pb_utils.InferenceRequest]:
        """The requests as Triton's class knows them."""
        return [
            pb_utils.InferenceRequest(
                request.label,
                [pb_utils.Tensor(tensor.name, tensor.array()) for tensor in request.inputs],
                request.outputs or self._outputs,
                request.parameters,
                request.timeout,
            )
            for request in requests
        ]

    def run(self, prepared: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One call for the whole batch; the number of responses must be the number of requests."""
        responses = self._model.execute(prepared)
        if not isinstance(responses, list) or len(responses) != len(prepared):
            raise ModelFailed(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. InferenceRequest "
                f"size is:{len(prepared)}, and InferenceResponse size is:{len(responses) if responses else 0}"
            )
        return responses

    def split(self, requests: Sequence[InferRequest], raw: list[pb_utils.InferenceResponse]) -> list[Outcome]:
        """Each response on its own: one that failed fails only its request."""
        return [self._outcome(request, response) for request, response in zip(requests, raw, strict=True)]

    def _outcome(self, request: InferRequest, response: object) -> Outcome:
        if not isinstance(response, pb_utils.InferenceResponse):
            return Failure(
                Code.MODEL_FAILED, f"'{self._name}' answered {type(response).__name__}, not InferenceResponse"
            )
        error = response.error()
        if error is not None:
            return Failure(pb_utils.CODES.get(error.code(), Code.MODEL_FAILED), error.message())
        given = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        wanted = request.outputs or tuple(name for name in self._outputs if name in given)
        missing = [name for name in wanted if name not in given]
        if missing:
            return Failure(
                Code.MODEL_FAILED, f"'{self._name}' did not answer the requested output(s) {', '.join(missing)}"
            )
        return tuple(from_array(name, given[name], _raw_bits(self._datatypes.get(name))) for name in wanted)

    def close(self) -> None:
        """Call `finalize` where the model has one."""
        if hasattr(self._model, "finalize"):
            self._model.finalize()
        self._model = None


def _raw_bits(datatype: str | None) -> str | None:
    return datatype if datatype == "BF16" else None


def _arguments(version: ModelVersion, placement: Placement) -> dict[str, str]:
    """What Triton gives to `initialize`: only strings."""
    return {
        "model_config": json.dumps(version.config.to_json()),
        "model_instance_kind": placement.kind.value.removeprefix("KIND_"),
        "model_instance_name": placement.name,
        "model_instance_device_id": str(placement.device_id or 0),
        "model_repository": str(version.folder),
        "model_version": str(version.version),
        "model_name": version.model,
    }


def _stated(model_class: type, version: ModelVersion) -> BackendMetadata:
    where = f"class {_SHORT_FORM} of model '{version.model}'"
    if not callable(getattr(model_class, "predict", None)):
        raise ConfigError(f"{where} has no method 'predict'")
    sides = []
    for side in ("inputs", "outputs"):
        stated = getattr(model_class, side, None)
        if stated is None:
            if not getattr(version.config, side):
                example = f'{side} = {{"NAME": ("FP32", [4])}}'
                raise ConfigError(f"{where} does not state its {side}; write for example {example}, or a config.pbtxt")
            stated = {spec.name: (spec.datatype, spec.dims) for spec in getattr(version.config, side)}
        try:
            sides.append(tuple(TensorSpec(name, kind, tuple(dims)) for name, (kind, dims) in stated.items()))
        except (AttributeError, TypeError, ValueError):
            raise ConfigError(f"{where}: '{side}' must map names to (datatype, dims)") from None
    rows = getattr(model_class, "max_batch_size", None)
    return BackendMetadata(sides[0], sides[1], rows != 0, rows or 0)


def _model_class(version: ModelVersion, *, alone: bool) -> type:
    """The class in a freshly imported model.py.

    Raises:
        ConfigError: the file cannot be imported or holds no model class.
    """
    module = _import(version, alone=alone)
    for name in (_TRITON_FORM, _SHORT_FORM):
        found = getattr(module, name, None)
        if isinstance(found, type):
            return found
    raise ConfigError(
        f"{version.path.name} of model '{version.model}' has neither class {_TRITON_FORM} nor class {_SHORT_FORM}"
    )


def _import(version: ModelVersion, *, alone: bool) -> ModuleType:
    """The module, with its folder and its model's folder importable while it loads.

    Unless it is alone, siblings that it imported are taken out of `sys.modules` again: two models may each have their own
    `utils.py`.
    """
    folders = [str(version.path.parent), str(version.folder)]
    with _IMPORT_LOCK, _at(version, "import"):
        sys.modules.setdefault("triton_python_backend_utils", pb_utils)
        before = set(sys.modules)
        sys.path[:0] = folders
        try:
            spec = importlib.util.spec_from_file_location(
                f"penstock_model_{version.model}_{version.version}", version.path
            )
            if spec is None or spec.loader is None:
                raise ConfigError(f"{version.path.name} of model '{version.model}' is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        finally:
            for folder in folders:
                sys.path.remove(folder)
            for name in () if alone else set(sys.modules) - before:
                if _is_below(sys.modules[name], folders):
                    del sys.modules[name]
    return module


def _is_below(module: ModuleType, folders: Sequence[str]) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and any(Path(file).is_relative_to(folder) for folder in folders)


@contextlib.contextmanager
def _at(version: ModelVersion, what: str) -> Iterator[None]:
    """Turn whatever user code raises into an error that names the model, the step and the line."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as exc:
        trace = "".join(traceback.format_exception(exc, limit=-3)).strip()
        raise ConfigError(f"{what} of model '{version.model}' version {version.version} failed: {trace}") from exc
