"""CPU and GPUs of this machine: their number, and Triton's gauges of their use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import psutil
import structlog
from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily

from workers.system import cpu_limit

_DRIVER: Final = Path("/proc/driver/nvidia/gpus")

log = structlog.get_logger(__name__)


def cores() -> int:
    """CPU cores that this process may use: those that it may run on, fewer if its container has a limit."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpu_limit.usable_cores(present, cpu_limit.cpu_quota(_text))


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return None


class Devices(Protocol):
    """The hardware, as the metrics need it."""

    def collect(self) -> Iterator[Metric]:
        """The current gauges."""


class Hardware:
    """This machine. GPUs are measured through NVML if it is installed (`pip install penstock[gpu]`) and finds a driver.

    Args:
        environment: its CUDA_VISIBLE_DEVICES limits the GPUs.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._visible = environment.get("CUDA_VISIBLE_DEVICES")
        self._nvml = nvml()
        self._handles: list[Any] = []
        if self._nvml is not None:
            count = self._nvml.nvmlDeviceGetCount()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        psutil.cpu_percent()  # the first call starts the measurement

    @property
    def gpus(self) -> Sequence[int]:
        """The numbers of the GPUs that CUDA offers this process: all, or as many as CUDA_VISIBLE_DEVICES lists."""
        present = len(self._handles) or _driver_gpus()
        if self._visible is None:
            return range(present)
        listed = [part for part in self._visible.split(",") if part.strip()]
        return range(min(len(listed), present))

    def collect(self) -> Iterator[Metric]:
        """See `Devices.collect`."""
        memory = psutil.virtual_memory()
        yield GaugeMetricFamily(
            "nv_cpu_utilization", "CPU utilisation of the machine, 0 to 1.", psutil.cpu_percent() / 100
        )
        yield GaugeMetricFamily("nv_cpu_memory_total_bytes", "Memory of the machine.", memory.total)
        yield GaugeMetricFamily("nv_cpu_memory_used_bytes", "Memory in use.", memory.used)
        if self._handles:
            yield from self._gpus()

    def _gpus(self) -> Iterator[Metric]:
        nvml = self._nvml
        label = ["gpu_uuid"]
        families: dict[str, Metric] = {
            "utilization": GaugeMetricFamily("nv_gpu_utilization", "GPU utilisation, 0 to 1.", labels=label),
            "total": GaugeMetricFamily("nv_gpu_memory_total_bytes", "Memory of the GPU.", labels=label),
            "used": GaugeMetricFamily("nv_gpu_memory_used_bytes", "GPU memory in use.", labels=label),
            "power": GaugeMetricFamily("nv_gpu_power_usage", "Power, in watts.", labels=label),
            "limit": GaugeMetricFamily("nv_gpu_power_limit", "Power limit, in watts.", labels=label),
            "energy": UnknownMetricFamily(  # a counter family would append `_total` to Triton's name
                "nv_energy_consumption", "Energy since the driver was loaded, in joules.", labels=label
            ),
        }
        for handle in self._handles:
            uuid = [nvml.nvmlDeviceGetUUID(handle)]
            for name, value in _readings(nvml, handle):
                families[name].add_metric(uuid, value)  # type: ignore[attr-defined]  # each is a gauge or counter family
        yield from families.values()


def _readings(nvml: Any, handle: Any) -> Iterator[tuple[str, float]]:
    """The GPU's readings; not every GPU has all of them."""
    readers: tuple[tuple[str, Callable[[], float]], ...] = (
        ("utilization", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
        ("total", lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total),
        ("used", lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
        ("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        ("limit", lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000),
        ("energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
    )
    for name, read in readers:
        try:
            yield name, read()
        except nvml.NVMLError:
            continue


def _driver_gpus() -> int:
    """How many GPUs NVIDIA's driver lists; used if NVML's Python package is not installed."""
    return len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0


def nvml() -> Any:
    """NVIDIA's management library, initialised; None if it is not installed or finds no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        log.debug("NVML finds no driver", error=str(exc))
        return None
    return pynvml
