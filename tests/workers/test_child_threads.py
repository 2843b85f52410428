"""An instance that is a process uses its share of the cores, however many threads its model's libraries would start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.children import CONFIG, running, version_of
from workers.instances.process.threads import VARIABLES, limit

CODE = """
    import os
    import numpy as np
    AT_IMPORT = os.environ.get("OMP_NUM_THREADS", "0")
    from workers.instances.process.threads import openblas_threads

    class Model:
        def predict(self, X):
            told = [AT_IMPORT, os.environ.get("MKL_NUM_THREADS", "0"), *openblas_threads()]
            return {"Y": np.array([told], np.float32)}
"""


@pytest.mark.parametrize(("instances", "threads"), [(1, 2), (2, 1)])
async def test_a_python_instance_has_its_share_of_threads_from_its_import_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instances: int, threads: int
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    version = version_of(tmp_path, CODE, CONFIG + f"instance_group [ {{ count: {instances} }} ]")
    async with running(version) as model:  # on two cores
        assert set(await model.value(0.0)) == {threads}
        model.child.kill()
        assert set(await model.value(0.0)) == {threads}


def test_what_the_administrator_has_chosen_stays() -> None:
    environment = {"OMP_NUM_THREADS": "5"}
    limit(1, environment)
    assert environment == {**dict.fromkeys(VARIABLES, "1"), "OMP_NUM_THREADS": "5"}
