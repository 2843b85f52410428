"""Starts the Triton server that the wheel `nvidia-pytriton` carries, without pytriton: with a model repository, as anybody would.

The wheel has the server, the Python backend and no other, and one stub of the Python backend per Python version. The stub embeds
libpython, so any interpreter of that version with a shared library can run the models.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NoReturn

from protocol.errors import NotFound

DEFAULT_PACKAGES: Final = Path(".venv-triton/bin/python")
"""Where `make bench` installs the wheel; the interpreter of that environment."""
_STUB: Final = "triton_python_backend_stub"
_FACTS: Final = {
    "version": "'%d.%d' % sys.version_info[:2]",
    "libraries": "sysconfig.get_config_var('LIBDIR')",
    "shared": "sysconfig.get_config_var('LDLIBRARY')",
    "packages": "sysconfig.get_path('purelib')",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TritonChoice:
    """Which server is started, and how.

    Attributes:
        packages: an interpreter in whose environment nvidia-pytriton is installed, and what the models import.
        python: the interpreter whose library runs Python models; of the same version.
        home: a folder to assemble the server in, one for each pair of these.
    """

    packages: str
    python: str
    home: Path


def start(
    choice: TritonChoice, repository: Path, http_port: int, metrics_port: int, grpc_port: int = 0, *more: str
) -> NoReturn:
    """Become the server; without a `grpc_port` it has no gRPC. `more` are further options of it.

    Raises:
        NotFound: the wheel is not there, has no stub for this version of Python, or the interpreter has no shared library.
    """
    site = Path(_facts(choice.packages)["packages"])
    python = _facts(choice.python)
    if not (Path(python["libraries"]) / python["shared"]).exists() or ".so" not in python["shared"]:
        raise NotFound(f"{choice.python} has no shared library; Triton's Python backend needs one")
    home = assemble(site, python["version"], choice.home)
    _make_environment(choice.python, site, home / "python")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{python['libraries']}",
        "PATH": f"{home / 'python' / 'bin'}:{os.environ.get('PATH', '')}",  # by which the stub finds its packages
    }
    print(f"about: {_about(site)}", flush=True)
    program = str(home / "bin" / "tritonserver")
    os.execve(program, [program, *_options(home, repository, http_port, metrics_port, grpc_port), *more], environment)  # noqa: S606


def _options(home: Path, repository: Path, http_port: int, metrics_port: int, grpc_port: int) -> list[str]:
    """Defaults, but for addresses and for what this machine or this wheel has not."""
    grpc = ["--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}"] if grpc_port else ["--allow-grpc=false"]
    return [
        f"--model-repository={repository}",
        f"--backend-directory={home / 'backends'}",
        f"--cache-directory={home / 'caches'}",
        "--http-address=127.0.0.1",
        f"--http-port={http_port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        *grpc,
        "--allow-gpu-metrics=false",
        f"--backend-config=python,shm-region-prefix-name=penstock-{os.getpid()}-",
    ]


def assemble(site: Path, version: str, home: Path) -> Path:
    """A server for one version of Python, out of links to the wheel's files.

    Raises:
        NotFound: the wheel or its stub is not there.
    """
    wheel = site / "pytriton" / "tritonserver"
    stub = wheel / "python_backend_stubs" / version / _STUB
    if not stub.exists():
        raise NotFound(f"{stub} is not there; install nvidia-pytriton")
    target = home.absolute()
    if not (target / "backends" / "python" / _STUB).exists():
        for part in ("bin", "backends", "caches"):
            shutil.rmtree(target / part, ignore_errors=True)
            shutil.copytree(wheel / part, target / part, copy_function=os.symlink)
        (target / "backends" / "python" / _STUB).symlink_to(stub)
    return target


def _make_environment(python: str, site: Path, folder: Path) -> None:
    """A virtual environment of this interpreter with the packages of another: the stub heeds no PYTHONPATH."""
    if not (folder / "pyvenv.cfg").exists():
        line = [python, "-m", "venv", "--without-pip", "--symlinks", str(folder)]
        subprocess.run(line, check=True)  # noqa: S603  # no input of others
        for packages in folder.glob("lib/python*/site-packages"):
            (packages / "packages.pth").write_text(f"{site}\n")


def _about(site: Path) -> str:
    """The versions of the wheel and of what the models import."""
    found = {item.name: item.version for item in importlib.metadata.distributions(path=[str(site)])}
    return ", ".join(f"{name} {found[name]}" for name in ("nvidia-pytriton", "numpy", "onnxruntime") if name in found)


def _facts(python: str) -> dict[str, str]:
    questions = ", ".join(f"'{name}': {expression}" for name, expression in _FACTS.items())
    script = f"import json, sys, sysconfig; print(json.dumps({{{questions}}}))"
    try:
        asked = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as exc:
        raise NotFound(f"{python} is no Python interpreter: {exc}") from exc
    facts: dict[str, str] = json.loads(asked.stdout)
    return facts
