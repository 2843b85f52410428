import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from protocol.errors import ConfigError, FleetError
from protocol.model_config.pbtxt import parse
from tests.workers.fleet import IDENTITY, write_model
from workers.backends import installed, load_backend, usable_gpus
from workers.lifecycle.loader import Loader
from workers.repository.scan import scan_repositories
from workers.repository.version import ModelVersion


def version(config: str = IDENTITY, folder: Path = Path("/nowhere")) -> ModelVersion:
    return ModelVersion("m", 1, folder, folder, parse(config, "config.pbtxt", "m"), "")


def loader(**fields: object) -> Loader:
    return Loader(fields.get("gpus", ()), 4, 32, 2, lambda: 0.0)  # type: ignore[arg-type]


async def test_a_version_is_completed_placed_and_loaded() -> None:
    loaded = await loader().load(version(IDENTITY + "instance_group [ { count: 2 } ]"))
    assert [executor.name for executor in loaded.executors] == ["m_0_0", "m_0_1"]
    assert loaded.version.config.dynamic_batching is not None
    await loaded.close()


async def test_what_the_files_raise_becomes_an_error_that_names_the_model(tmp_path: Path) -> None:
    code = "class Model:\n    def __init__(self):\n        raise KeyError('weights')\n    def predict(self, X):\n        return X\n"
    write_model(tmp_path, "m", IDENTITY.replace("identity", "python"), {"model.py": code})
    ((broken,),) = (folder.versions for folder in scan_repositories([tmp_path]))
    with pytest.raises(FleetError, match=r"(?s)'m'.*weights"):
        await loader().load(broken)


async def test_no_backend_and_no_gpu_are_named() -> None:
    with pytest.raises(ConfigError, match="there is no backend 'nothing'"):
        await loader().load(version(IDENTITY.replace("identity", "nothing")))
    with pytest.raises(ConfigError, match="KIND_GPU but no GPUs are available"):
        await loader(gpus=(0, 1)).load(version(IDENTITY + "instance_group [ { kind: KIND_GPU } ]"))


def test_only_a_backend_that_says_so_gets_gpus() -> None:
    def odd(gpus: Sequence[int]) -> Sequence[int]:
        return [gpu for gpu in gpus if gpu % 2]

    assert usable_gpus(object(), (0, 1)) == ()
    assert usable_gpus(SimpleNamespace(usable_gpus=odd), (0, 1, 3)) == [1, 3]


def test_no_backend_takes_gpus_that_are_not_offered() -> None:
    for name in installed():
        assert list(usable_gpus(load_backend(name), ())) == []
    assert list(usable_gpus(load_backend("python"), (0, 2))) == [0, 2]


async def test_every_failed_instance_frees_the_others(tmp_path: Path) -> None:
    bad = version(IDENTITY + 'parameters { key: "execute_delay_ms" value { string_value: "soon" } }')
    with pytest.raises(ConfigError, match="'execute_delay_ms' of m must be"):
        await loader().load(dataclasses.replace(bad, folder=tmp_path))
