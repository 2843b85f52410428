"""PyTorch models: TorchScript (`model.pt`) and `torch.export` programs (`model.pt2`). Nothing is unpickled from a repository.

Tensors are bound by position: `INPUT__0`, `INPUT__1`, … by their number, other names in the configuration's order; a TorchScript
forward's parameter names are used where all of them match. Outputs likewise, by position, or by key where the model returns a dict.
Parameters: `INTRA_OP_THREAD_COUNT` (of the whole process, as libtorch's is) and `INFERENCE_MODE` ("true" by default).
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from protocol.errors import ConfigError, ModelFailed, quoted
from protocol.model_config import Kind, ModelConfig
from protocol.tensors import Array
from workers.backends.base import Instance
from workers.backends.cures import add_cure, with_cure
from workers.backends.tensor_instance import TensorInstance
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion

_POSITION: Final = "__"
_TENSORS_ONLY: Final = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_loading: Final = threading.Lock()


class TorchBackend:
    """Loads `model.pt` or `model.pt2`."""

    def inspect(self, version: ModelVersion) -> BackendMetadata | None:
        """None: neither format states names, datatypes and batch dimension reliably; the configuration must."""
        return None

    def usable_gpus(self, gpus: Sequence[int]) -> Sequence[int]:
        """Those that torch sees."""
        import torch

        return [gpu for gpu in gpus if gpu < torch.cuda.device_count()] if torch.cuda.is_available() else ()

    def load(self, version: ModelVersion, placement: Placement) -> Instance:
        """Load onto the placed device."""
        import torch

        device = f"cuda:{placement.device_id}" if placement.kind is Kind.GPU else "cpu"
        threads = version.config.parameters.get("INTRA_OP_THREAD_COUNT", str(placement.threads))
        if not threads.isdigit() or threads == "0":
            raise ConfigError(
                f"parameter 'INTRA_OP_THREAD_COUNT' of model '{version.model}' must be a number, not {quoted(threads)}"
            )
        torch.set_num_threads(int(threads))
        return TorchInstance(version.config, _load(version, device), device)


class TorchInstance(TensorInstance):
    """One module on one device."""

    def __init__(self, config: ModelConfig, module: Any, device: str) -> None:
        super().__init__(config)
        self._module, self._device = module, device
        made = [name for each in config.batch_inputs for name in each.targets]
        self._inputs = _in_order(module, [spec.name for spec in config.inputs] + made)
        self._bfloat16 = frozenset(spec.name for spec in config.inputs if spec.datatype == "BF16")
        self._outputs = [spec.name for spec in config.outputs]
        self._positions = [_position(name, index) for index, name in enumerate(self._outputs)]
        self._inference = config.parameters.get("INFERENCE_MODE", "true").lower() != "false"

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """Copy in, one forward, copy out."""
        import torch

        with torch.inference_mode(self._inference):
            arguments = [self._tensor(torch, name, inputs[name]) for name in self._inputs if name in inputs]
            return self._named(self._forward(arguments))

    def _forward(self, arguments: list[Any]) -> Any:
        try:
            return self._module(*arguments)
        except Exception as exc:
            add_cure(exc)
            raise

    def _tensor(self, torch: Any, name: str, array: Array) -> Any:
        if array.dtype == object:
            raise ModelFailed(f"input '{name}': a PyTorch model takes no BYTES")
        if not array.flags.writeable:  # torch has no read-only tensors; a forward must not write into the record
            array = array.copy()
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if name in self._bfloat16:
            tensor = tensor.view(torch.bfloat16)
        return tensor.to(self._device, non_blocking=True)

    def _named(self, raw: Any) -> dict[str, Array]:
        if isinstance(raw, dict):
            return {str(name): _array(value) for name, value in raw.items()}
        values = raw if isinstance(raw, tuple | list) else (raw,)
        if len(values) <= max(self._positions):
            raise ModelFailed(
                f"the model returned {len(values)} output(s); its configuration names {len(self._positions)}"
            )
        return {name: _array(values[position]) for name, position in zip(self._outputs, self._positions, strict=True)}

    def close(self) -> None:
        """Free the module."""
        self._module = None


def _array(value: Any) -> Array:
    """The tensor on the host; bfloat16 as its bits, since NumPy has no such type."""
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":
        import torch

        value = value.view(torch.uint16)
    array: Array = value.numpy()
    return array


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Have torch.load refuse Python objects: torch.export.load asks it to unpickle a file that holds more than tensors."""
    with _loading:
        before = os.environ.get(_TENSORS_ONLY)
        os.environ[_TENSORS_ONLY] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_TENSORS_ONLY]
            else:
                os.environ[_TENSORS_ONLY] = before


def _load(version: ModelVersion, device: str) -> Any:
    import torch

    try:
        if version.path.suffix == ".pt2":
            with _tensors_only():
                program = torch.export.load(str(version.path))
            return program.module().to(device)
        with warnings.catch_warnings():  # TorchScript is deprecated upstream, but Triton's repositories hold it
            warnings.simplefilter("ignore")
            return torch.jit.load(str(version.path), map_location=device).eval()
    except Exception as exc:  # torch raises RuntimeError, ValueError, pickling and zip errors alike
        hint = "expected TorchScript" if version.path.suffix == ".pt" else "expected a torch.export program"
        raise ConfigError(
            f"torch cannot load model '{version.model}' version {version.version} ({hint}; state dicts and pickled modules are "
            f"refused because loading them runs code): {with_cure(str(exc))}"
        ) from exc


def _in_order(module: Any, names: list[str]) -> list[str]:
    """The configuration's inputs in the order of forward's parameters."""
    schema = getattr(getattr(module, "forward", None), "schema", None)
    if schema is not None:
        taken = [argument.name for argument in schema.arguments if argument.name != "self"]
        if set(names) <= set(taken):
            return [name for name in taken if name in names]
    return sorted(names, key=lambda name: _position(name, names.index(name)))


def _position(name: str, index: int) -> int:
    """The number after `__`, as in `OUTPUT__1`; else the position in the configuration."""
    _, mark, number = name.rpartition(_POSITION)
    return int(number) if mark and number.isdigit() else index
