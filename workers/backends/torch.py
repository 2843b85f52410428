"""PyTorch models: torch.export programs and AOTInductor packages (`model.pt2`), and TorchScript (`model.pt`, `.pth`, `.jit`).
Nothing is unpickled from a repository.

Tensors are bound by name or by position (`torch_binding`). A model may return a tensor, or tuples, lists and dicts of them
(`torch_files.pytrees` names them). What a file states is `torch_inspection`'s subject.
Parameters: `INTRA_OP_THREAD_COUNT` (of the whole process, as libtorch's is) and `INFERENCE_MODE` ("true" by default).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protocol.errors import ConfigError, ModelFailed, quoted
from protocol.model_config import Kind, ModelConfig
from protocol.tensors import Array
from workers.backends import torch_inspection
from workers.backends.base import Instance
from workers.backends.cures import add_cure
from workers.backends.tensor_instance import TensorInstance
from workers.backends.torch_binding import bind, positions
from workers.backends.torch_probe import named_outputs
from workers.backends.torch_programs import Program
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion


class TorchBackend:
    """Loads `model.pt2`, `model.pt`, `model.pth` or `model.jit`.

    Attributes:
        dedicated: this process runs nothing but one model, which may write to its inputs: they are there for one run.
    """

    dedicated = False

    def inspect(self, version: ModelVersion) -> BackendMetadata | None:
        """What the file states, and runs of zeros where it leaves something out: see `torch_inspection`."""
        return torch_inspection.inspect(version).metadata

    def open(self, version: ModelVersion, placement: Placement) -> tuple[BackendMetadata | None, Program | None]:
        """See `opening`: the program that was run with zeros. For a GPU the file is loaded again, onto it."""
        found = torch_inspection.inspect(version)
        return found.metadata, None if placement.kind is Kind.GPU else found.program

    def usable_gpus(self, gpus: Sequence[int]) -> Sequence[int]:
        """Those that torch sees."""
        import torch

        return [gpu for gpu in gpus if gpu < torch.cuda.device_count()] if torch.cuda.is_available() else ()

    def load(self, version: ModelVersion, placement: Placement) -> Instance:
        """Load onto the placed device."""
        return self._load(version, placement, None)

    def load_opened(self, version: ModelVersion, placement: Placement, opened: Program) -> Instance:
        """See `opening`."""
        return self._load(version, placement, None if placement.kind is Kind.GPU else opened)

    def _load(self, version: ModelVersion, placement: Placement, program: Program | None) -> Instance:
        import torch

        device_id = placement.device_id if placement.kind is Kind.GPU else None
        threads = version.config.parameters.get("INTRA_OP_THREAD_COUNT", str(placement.threads))
        if not threads.isdigit() or threads == "0":
            raise ConfigError(
                f"parameter 'INTRA_OP_THREAD_COUNT' of model '{version.model}' must be a number, not {quoted(threads)}"
            )
        torch.set_num_threads(int(threads))
        program = program or torch_inspection.load_program(version, device_id)
        device = "cpu" if device_id is None else f"cuda:{device_id}"
        return TorchInstance(version.config, program, device, dedicated=self.dedicated)


class TorchInstance(TensorInstance):
    """One program on one device."""

    def __init__(self, config: ModelConfig, program: Program, device: str, *, dedicated: bool = False) -> None:
        super().__init__(config)
        self._dedicated = dedicated
        self._program: Program | None = program
        self._device = device
        self._parameters = bind(config, program.parameters, program.required)
        self._bfloat16 = frozenset(spec.name for spec in config.inputs if spec.datatype == "BF16")
        self._outputs = [spec.name for spec in config.outputs]
        self._state = program.state()
        self._inference = config.parameters.get("INFERENCE_MODE", "true").lower() != "false"

    def with_config(self, config: ModelConfig) -> TorchInstance | None:
        """See `opening`: None for a program that keeps something of its runs, or may do so."""
        assert self._program is not None
        unchanged = self._state is not None and self._program.state() == self._state
        return TorchInstance(config, self._program, self._device) if unchanged else None

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """Copy in, one forward, copy out."""
        import torch

        assert self._program is not None
        with torch.inference_mode(self._inference):
            tensors = {
                parameter: self._tensor(torch, name, inputs[name])
                for name, parameter in self._parameters.items()
                if name in inputs
            }
            return self._named(self._forward(tensors))

    def _forward(self, tensors: Mapping[str, Any]) -> Any:
        assert self._program is not None
        try:
            return self._program(tensors)
        except Exception as exc:
            add_cure(exc)
            raise

    def _tensor(self, torch: Any, name: str, array: Array) -> Any:
        if array.dtype == object:
            raise ModelFailed(f"input '{name}': a PyTorch model takes no BYTES")
        if not (self._dedicated and array.flags.writeable):  # a forward must not write into the record
            array = array.copy()
        tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))  # a scalar would become one element
        if name in self._bfloat16:
            tensor = tensor.view(torch.bfloat16)
        return tensor.to(self._device, non_blocking=True)

    def _named(self, raw: Any) -> dict[str, Array]:
        found = named_outputs(raw)
        places = positions(self._outputs, list(found))
        if len(found) <= max(places):
            raise ModelFailed(
                f"the model returned {len(found)} output(s); its configuration names {len(self._outputs)}"
            )
        values = list(found.values())
        return {name: _array(name, values[place]) for name, place in zip(self._outputs, places, strict=True)}

    def close(self) -> None:
        """Free the program."""
        self._program = None


def _array(name: str, value: Any) -> Array:
    """The tensor on the host; bfloat16 as its bits, since NumPy has no such type."""
    if not hasattr(value, "detach"):
        raise ModelFailed(f"the model returned output '{name}' as {type(value).__name__}; it must be a tensor")
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":
        import torch

        value = value.view(torch.uint16)
    array: Array = value.numpy()
    return array
