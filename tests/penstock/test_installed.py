"""Penstock as a stranger has it: a wheel in a virtual environment, started from a folder of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Final

import httpx
import pytest

from infra.local.process import free_port
from tests.integration.fleet import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("installed")]

TREE: Final = Path(__file__).parents[2]
PACKAGES: Final = {"protocol", "gateway", "workers", "penstock", "loadtest"}
DATA: Final = {".html", ".css", ".js", ".svg", ".proto", ".binpb", ".lua", ".typed"}
"""Suffixes of files that are no code."""
BUILD: Final = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
MODEL: Final = """
class Model:
    inputs = {"A": ("FP32", [2])}
    outputs = {"SUM": ("FP32", [1])}
    max_batch_size = 8

    def predict(self, A):
        return {"SUM": A.sum(axis=1, keepdims=True)}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files of this tree."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(TREE / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(target)], cwd=source, check=True, capture_output=True)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel; what it depends on comes from the environment of this test."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    programs = place / "bin"
    site = next(place.glob("lib/python*/site-packages"))
    for key in ("purelib", "platlib"):
        with (site / "dependencies.pth").open("a") as file:
            file.write(f"{sysconfig.get_path(key)}\n")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(programs / "python"), "install"),
            *("--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)),
        ],
        check=True,
        capture_output=True,
    )
    return programs


def stranger() -> dict[str, str]:
    """The environment of somebody who has no clone."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PENSTOCK_", "COV_"))}


def test_the_wheel_has_the_packages_and_their_data_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(file.relative_to(TREE))
        for package in PACKAGES
        for file in (TREE / package).rglob("*")
        if file.suffix in {".py", *DATA}
    }

    assert names == expected
    assert {"penstock/py.typed", "protocol/py.typed", "gateway/page/static/index.html"} <= names


def test_what_is_installed_serves_a_model_and_its_page(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    port, metrics = free_port(), free_port()
    ports = ["--http-port", str(port), "--grpc-port", "0", "--metrics-port", str(metrics)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [installed / "penstock", "serve", "model.py", *ports],
            cwd=tmp_path, env=stranger(), stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:

            def ready() -> bool:
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    return http.get("/v2/health/ready").status_code == 200
                except httpx.TransportError:
                    return False

            wait_for("the server", ready)
            page = http.get("/", headers={"accept": "text/html"})
            assert page.headers["content-type"].startswith("text/html")
            parts = re.findall(r'(?:src|href)="([^"#:]+\.(?:js|css|svg))"', page.text)
            assert parts
            assert {part: http.get(part).status_code for part in parts} == dict.fromkeys(parts, 200)
            assert "penstock" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        asked = [installed / "penstock", "infer", "model", "-i", "A=[[1, 2]]", "--url", f"http://127.0.0.1:{port}"]
        answered = subprocess.run(asked, cwd=tmp_path, env=stranger(), capture_output=True, text=True, check=True)
        assert "SUM [1, 1] = [[3.]]" in answered.stdout
    finally:
        server.terminate()
    assert server.wait(30) == 0


def test_it_runs_without_the_tree(installed: Path, tmp_path: Path) -> None:
    code = f"import {', '.join(sorted(PACKAGES))}; print(*[p.__file__ for p in ({', '.join(sorted(PACKAGES))})], sep='\\n')"
    done = subprocess.run(
        [installed / "python", "-c", code], cwd=tmp_path, env=stranger(), capture_output=True, text=True, check=True
    )

    assert all(Path(file).is_relative_to(installed.parent) for file in done.stdout.splitlines())


def test_every_command_and_the_client_are_there(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "penstock", "new", "wine"],
        cwd=tmp_path,
        env=stranger(),
        capture_output=True,
        text=True,
        check=True,
    )
    checked = subprocess.run(
        [installed / "penstock", "check", "models", "--run"],
        cwd=tmp_path, env=stranger(), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.stderr == ""
    assert checked.returncode == 0, checked.stdout + checked.stderr
