"""Models written in Python: Triton's `TritonPythonModel` class, or the short form `class Model` with one method `predict`.

Triton's class gets the batch's requests as they are and answers each. The short form gets stacked arrays by name, rows first, and
returns arrays by name: `def predict(self, **inputs) -> dict[str, ndarray]`; it states its tensors as class attributes, for example
`inputs = {"TEXT": ("BYTES", [1])}`, `outputs = {"SCORE": ("FP32", [1])}` and optionally `max_batch_size = 32`.

Instances are child processes (`workers.instances.process`) unless the configuration's parameter `instance_isolation` says `thread`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from protocol.errors import ConfigError
from protocol.model_config import ModelConfig
from workers.backends import pb_utils
from workers.backends.base import Instance
from workers.backends.python_forms import (
    METHODS,
    SHORT_FORM,
    TRITON_FORM,
    foreign_form,
    place_of_class,
    similar_method,
    unsupported_method,
)
from workers.backends.python_instances import ShortFormInstance, TritonFormInstance
from workers.backends.python_modules import forget, import_model, naming_model_errors
from workers.backends.python_short_form import stated_rows, stated_tensors, unfit_parameters
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion


class PythonBackend:
    """Loads `model.py`. Importing user code runs it: a repository is trusted as much as a server's own code.

    Attributes:
        dedicated: this process runs nothing but one model, so the modules beside it stay importable while it runs.
    """

    dedicated = False

    def inspect(self, version: ModelVersion) -> BackendMetadata | None:
        """The class's metadata: from `auto_complete_config`, or the short form's attributes."""
        model_class = _model_class(version, dedicated=self.dedicated)
        try:
            return self._inspect(model_class, version)
        finally:
            forget(model_class)

    def open(self, version: ModelVersion, placement: Placement) -> tuple[BackendMetadata | None, type | None]:
        """See `opening`: the class, so that the file is imported once.

        In a process that also runs other things (`instance_isolation` is `thread`) it is imported once more, by the thread of the
        instance: what a module makes while it is imported may work only in the thread that made it.
        """
        if not self.dedicated:
            return self.inspect(version), None
        model_class = _model_class(version, dedicated=True)
        return self._inspect(model_class, version), model_class

    def _inspect(self, model_class: type, version: ModelVersion) -> BackendMetadata | None:
        if model_class.__name__ == SHORT_FORM:
            return _stated(model_class, version)
        complete = getattr(model_class, "auto_complete_config", None)
        if complete is None:
            return None
        document = {"max_batch_size": 0} | version.config.to_json()
        with naming_model_errors(version, "auto_complete_config"):
            completed = complete(pb_utils.ModelConfig(document))
        if not isinstance(completed, pb_utils.ModelConfig):
            raise ConfigError(f"auto_complete_config of model '{version.model}' must return its argument")
        config = ModelConfig.from_json(completed.as_dict())
        return BackendMetadata(config.inputs, config.outputs, config.max_batch_size > 0, config.max_batch_size)

    def usable_gpus(self, gpus: Sequence[int]) -> Sequence[int]:
        """All: the model's own code decides."""
        return gpus

    def load(self, version: ModelVersion, placement: Placement) -> Instance:
        """Import the file anew, create the object, call its `initialize` if it has one."""
        return self.load_opened(version, placement, _model_class(version, dedicated=self.dedicated))

    def load_opened(self, version: ModelVersion, placement: Placement, opened: type) -> Instance:
        """See `opening`."""
        model_class = opened
        try:
            return self._load(model_class, version, placement)
        except BaseException:
            forget(model_class)
            raise

    def _load(self, model_class: type, version: ModelVersion, placement: Placement) -> Instance:
        with naming_model_errors(version, "__init__"):
            model = model_class()
        _require_method(model, model_class, version)
        if model_class.__name__ == SHORT_FORM:
            _require_parameters(model, version)
            return ShortFormInstance(version.config, placement, model, dedicated=self.dedicated)
        if hasattr(model, "initialize"):
            with naming_model_errors(version, "initialize"):
                model.initialize(_arguments(version, placement))
        return TritonFormInstance(version.config, placement, model, dedicated=self.dedicated)


def _arguments(version: ModelVersion, placement: Placement) -> dict[str, str]:
    """Triton's arguments of `initialize`, all strings."""
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
    _require_method(model_class, model_class, version)
    where = f"class {SHORT_FORM} of model '{version.model}'"
    sides = []
    for side in ("inputs", "outputs"):
        stated = getattr(model_class, side, None)
        if stated is None:
            if not getattr(version.config, side):
                example = f'{side} = {{"NAME": ("FP32", [4])}}'
                raise ConfigError(f"{where} does not state its {side}; write for example {example}, or a config.pbtxt")
            stated = {spec.name: (spec.datatype, spec.dims) for spec in getattr(version.config, side)}
        sides.append(stated_tensors(stated, f"{side} of {where}"))
    rows = stated_rows(getattr(model_class, "max_batch_size", None), where)
    return BackendMetadata(sides[0], sides[1], rows != 0, rows or 0)


def _model_class(version: ModelVersion, *, dedicated: bool) -> type:
    """The class in a freshly imported model.py.

    Raises:
        ConfigError: the file cannot be imported or holds no model class.
    """
    if text := foreign_form(version.path.read_text(errors="replace"), str(version.path)):
        raise ConfigError(text)  # before it imports a library that need not be installed
    module = import_model(version, dedicated=dedicated)
    for name, method in METHODS.items():
        found = getattr(module, name, None)
        if isinstance(found, type):
            _check_methods(found, method)
            return found
    raise ConfigError(
        f"{version.path.name} of model '{version.model}' has neither class {TRITON_FORM} nor class {SHORT_FORM}; write for example "
        f"'class {SHORT_FORM}:' with 'def predict(self, X)', which takes and returns arrays by name"
    )


def _check_methods(model_class: type, method: str) -> None:
    """Refuse methods that cannot be served yet.

    Raises:
        ConfigError: naming the line.
    """
    for name in (method, "__init__", "initialize", "auto_complete_config"):
        if text := unsupported_method(model_class, name):
            raise ConfigError(text)


def _require_parameters(model: Any, version: ModelVersion) -> None:
    """Refuse a model whose `predict` does not take its inputs.

    Raises:
        ConfigError: naming both.
    """
    config = version.config
    names = [spec.name for spec in config.inputs] + [name for each in config.batch_inputs for name in each.targets]
    if text := unfit_parameters(model.predict, names):
        raise ConfigError(f"{place_of_class(type(model))}{text}")


def _require_method(model: object, model_class: type, version: ModelVersion) -> None:
    """Refuse a model without its method.

    Raises:
        ConfigError: naming the class and its line.
    """
    method = METHODS[model_class.__name__]
    if not callable(getattr(model, method, None)):
        raise ConfigError(
            f"{place_of_class(model_class)}class {model_class.__name__} of model '{version.model}' has no method '{method}'"
            f"{similar_method(model_class, method)}"
        )
