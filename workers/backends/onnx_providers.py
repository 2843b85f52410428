"""onnxruntime's execution providers: which a model gets, and whether the installed library has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.model_config import Kind, ModelConfig
from workers.repository.placement import Placement

CPU: Final = ("CPUExecutionProvider",)


def providers_of(config: ModelConfig, placement: Placement) -> list[Any]:
    """The configured providers, else CUDA on the placed GPU, else the CPU; the CPU always backs the others.

    Raises:
        ConfigError: a provider is not in the installed onnxruntime.
    """
    import onnxruntime as ort

    named = [name.strip() for name in config.parameters.get("execution_providers", "").split(",") if name.strip()]
    if not named:
        named = ["CUDAExecutionProvider"] if placement.kind is Kind.GPU else ["CPUExecutionProvider"]
    there = ort.get_available_providers()
    for name in named:
        if name not in there:
            raise ConfigError(
                f"model '{config.name}' needs {name}, and the installed onnxruntime has {', '.join(there)}; "
                "for GPUs: pip uninstall onnxruntime && pip install 'penstock[onnx-gpu]'"
            )
    if named != ["CPUExecutionProvider"] and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # of CUDA and cuDNN from their wheels: the dynamic linker does not look there
    device = {"device_id": str(placement.device_id or 0)}
    chosen: list[Any] = [(name, device) if name != "CPUExecutionProvider" else name for name in named]
    return chosen if "CPUExecutionProvider" in named else [*chosen, "CPUExecutionProvider"]


def require_providers(config: ModelConfig, asked: list[Any], used: Sequence[str]) -> None:
    """Refuse a session that fell back: onnxruntime skips providers that it cannot start, and a model for a GPU must not run on the
    CPU.

    Raises:
        ConfigError: names the provider and what is usually missing.
    """
    for provider in asked:
        name = provider if isinstance(provider, str) else provider[0]
        if name not in used:
            raise ConfigError(
                f"onnxruntime could not start {name} for model '{config.name}': the driver or a library of its version of CUDA or "
                "cuDNN is missing (its log has the name); pip install 'penstock[onnx-gpu]' brings the libraries"
            )
