from __future__ import annotations

from pathlib import Path

import pytest

from loadtest import triton
from loadtest.compare import triton_command
from protocol.errors import NotFound

STUB = "triton_python_backend_stub"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Packages with the files of the wheel that matter."""
    wheel = tmp_path / "site" / "pytriton" / "tritonserver"
    for name in ("bin/tritonserver", "backends/python/model.py", "caches/local/x", f"python_backend_stubs/3.11/{STUB}"):
        (wheel / name).parent.mkdir(parents=True, exist_ok=True)
        (wheel / name).write_text(name)
    return tmp_path / "site"


def test_a_server_is_assembled_from_the_wheel_and_the_stub_of_one_python(site: Path, tmp_path: Path) -> None:
    for _ in range(2):
        home = triton.assemble(site, "3.11", tmp_path / "home")
        assert (home / "bin" / "tritonserver").read_text() == "bin/tritonserver"
        assert (home / "backends" / "python" / "model.py").exists()
        assert (home / "backends" / "python" / STUB).read_text().endswith(STUB)
        assert (home / "caches" / "local" / "x").exists()


def test_a_python_without_a_stub_and_a_folder_without_the_wheel_are_refused(site: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"python_backend_stubs/3\.99"):
        triton.assemble(site, "3.99", tmp_path / "home")
    with pytest.raises(NotFound, match="nvidia-pytriton"):
        triton.assemble(tmp_path, "3.11", tmp_path / "home")


def test_triton_is_named_by_an_interpreter_or_a_whole_command() -> None:
    whole = "tritonserver --model-repository={repository} --http-port={port}"
    assert triton_command(whole) == whole
    assert triton_command("") == ""
    ours = triton_command("/opt/its env/bin/python")
    assert "'/opt/its env/bin/python'" in ours
    assert all(part in ours for part in ("{repository}", "{port}", "{free}", "{python}"))
