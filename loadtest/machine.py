"""What a result was measured on: enough to compare runs, nothing that names the machine."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from loadtest.processes import on_core
from workers.devices import nvml

NOT_PINNED = "not pinned"
_SPINS: Final = 100_000
_PACKAGES = ("penstock", "onnxruntime", "onnxruntime-gpu", "torch", "numpy", "uvloop", "httptools", "aiokafka", "redis")


def about(server_core: int | None, load_core: int | None) -> dict[str, str]:
    """Facts by name: processor, memory, cores used, versions, commit and date."""
    pinned = NOT_PINNED if server_core is None else f"servers {server_core}, load {load_core}"
    gpus = ", ".join(_gpus())
    return ({"gpu": gpus} if gpus else {}) | {
        "processor": f"{_processor()}, {psutil.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "cores": pinned,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name))),
        "load before the start": f"{psutil.cpu_percent(1.0):.0f} %",
        "commit": commit(),
        "date": date(),
    }


def date() -> str:
    """Now, to the minute."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def spin_ns(core: int | None) -> float:
    """How fast a core is at the moment: nanoseconds per iteration of a fixed loop, the median of several short ones."""
    with on_core(core):
        return statistics.median(_spin() for _ in range(9)) / _SPINS * 1e9


def _spin() -> float:
    begin, total = time.perf_counter(), 0
    for number in range(_SPINS):
        total += number
    return time.perf_counter() - begin


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _gpus() -> Iterator[str]:
    """The name of each GPU and its driver, if NVIDIA's management library is installed and finds any."""
    library = nvml()
    for index in range(library.nvmlDeviceGetCount()) if library is not None else ():
        name = library.nvmlDeviceGetName(library.nvmlDeviceGetHandleByIndex(index))
        yield f"{name}, driver {library.nvmlSystemGetDriverVersion()}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def commit() -> str:
    """The short hash, with a + if the working tree differs; "unknown" outside a repository."""
    root = Path(__file__).parent
    line = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603  # no input of others
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
