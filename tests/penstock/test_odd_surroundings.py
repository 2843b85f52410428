"""Commands with closed streams, on a full disk, beside files that are called as our packages are, with words that are no UTF-8."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.process import free_port
from penstock.cli.exits import exit_of
from penstock.client import Client
from penstock.packages import NAMES
from protocol.errors import FleetError
from tests.integration.fleet import wait_for

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits" / "models" / "digits" / "1" / "model.onnx"
PENSTOCK = (sys.executable, "-P", "-m", "penstock")
"""As the installed command: without the current folder in Python's path."""


def environment(*first: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*first, ROOT)))}


def in_shell(
    script: str, *words: str | bytes, cwd: Path = ROOT, path: tuple[Path, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a shell's line, in which `"$@"` is the command."""
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *words],
        capture_output=True, text=True, timeout=50, cwd=cwd, env=environment(*path), check=False,
    )  # fmt: skip


def answers(client: Client, model: str) -> bool:
    """Whether the server is there and has the model."""
    with contextlib.suppress(FleetError):
        return bool(client.get(f"/v2/models/{model}")["name"] == model)
    return False


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_whose_standard_streams_are_closed_answers_and_stops(closed: str, processes: str) -> None:
    port = free_port()
    name = f"digits-{os.getpid()}-{port}"  # a server of another test cannot be taken for this one
    serve = [
        *PENSTOCK,
        "serve",
        f"{name}={DIGITS}",
        "--http-port",
        str(port),
        "--grpc-port",
        "off",
        "--metrics-port",
        "0",
    ]
    server = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *serve, "--processes", processes],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
    )  # fmt: skip
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            wait_for("the server", lambda: answers(client, name))
    finally:
        server.terminate()
    assert server.wait(30) == 0


@pytest.mark.parametrize("command", ["--help", "--version", "doctor", "check models"])
def test_output_that_cannot_be_written_is_a_line_and_an_exit_code(command: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = in_shell('"$@" >/dev/full', *PENSTOCK, *shlex.split(command), cwd=ROOT / "examples" / "digits")

    assert done.returncode == 7
    assert done.stderr == "penstock: no space is left on the device that is written to: the output's, or TMPDIR's\n"


def test_output_that_nobody_reads_is_no_error_of_the_command() -> None:
    done = in_shell('"$@" >&-; echo "exit $?"', *PENSTOCK, "--help")

    assert (done.stdout, done.stderr) == ("exit 0\n", "")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left"),
        (MemoryError(), "ulimit -v"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_limits_of_the_system_are_named(error: Exception, says: str) -> None:
    end = exit_of(error)

    assert end is not None
    assert end.code == 7
    assert says in end.text


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("a bug"), ValueError()])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert exit_of(error) is None


def test_long_names_are_shortened() -> None:
    end = exit_of(OSError(errno.ENAMETOOLONG, "File name too long", "n" * 100_000))

    assert end is not None
    assert len(end.text) < 3000
    assert end.text.endswith("File name too long")


def test_a_word_that_is_no_utf8_is_named() -> None:
    done = in_shell('"$@"', *PENSTOCK, "infer", b"add\xff", "--random", "--url", "http://127.0.0.1:1")

    assert done.returncode == 3
    assert done.stderr == "penstock: 'add\\udcff' is not valid Unicode\n"


def test_a_word_that_nobody_checked_is_named_all_the_same() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "add\udcff".encode()
    end = exit_of(caught.value)

    assert end is not None
    assert (end.code, end.text) == (3, "'add\\udcff' has bytes that are no UTF-8, and only names of files may")


@pytest.mark.parametrize("name", [*[f"{name}.py" for name in NAMES], *NAMES])
def test_a_file_that_hides_a_package_of_ours_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name if name.endswith(".py") else tmp_path / name / "__init__.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("VALUE = 1\n")

    done = in_shell('"$@"', *PENSTOCK, "models", path=(tmp_path,))

    assert done.returncode == 3
    assert done.stderr.startswith(
        f"penstock: '{tmp_path / name}' hides Penstock's own package '{name.removesuffix('.py')}'"
    )
    assert done.stderr.count("\n") == 1


def test_a_script_beside_such_a_file_gets_an_import_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "protocol.py").write_text("VALUE = 1\n")
    (tmp_path / "call.py").write_text("from penstock import Client\n")

    done = in_shell('"$@"', sys.executable, str(tmp_path / "call.py"))

    assert done.stderr.splitlines()[-1].startswith(
        f"ImportError: '{tmp_path / 'protocol.py'}' hides Penstock's own package"
    )


def test_the_current_folder_hides_nothing_from_the_processes_of_a_server(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)\n")
    shutil.copy(DIGITS, tmp_path)
    port = free_port()
    server = subprocess.Popen(
        [
            *(*PENSTOCK, "serve", "model.onnx", "--processes", "2", "--http-port", str(port)),
            *("--grpc-port", "off", "--metrics-port", "0"),
        ],
        cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            wait_for("the server", lambda: server.poll() is not None or client.ready())
            assert client.ready()
    finally:
        server.terminate()
    assert server.wait(30) == 0


def test_a_terminal_that_is_closed_ends_a_server_in_order(tmp_path: Path) -> None:
    port = free_port()
    in_a_terminal = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); from penstock.entry import main; main()"
    )
    serve = ["serve", str(DIGITS), "--http-port", str(port), "--grpc-port", "off", "--metrics-port", "0"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-P", "-c", in_a_terminal, *serve], env=environment(), stdout=log, stderr=log
        )
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            wait_for("the server", client.ready)
        server.send_signal(signal.SIGHUP)
        assert server.wait(30) == 0
    finally:
        server.kill()
    assert " is draining " in (tmp_path / "log").read_text()
