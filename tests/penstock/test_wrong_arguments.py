"""Every command with wrong, missing and contradictory arguments: one line that names the error, never a traceback."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import penstock.cli
from penstock.cli.exits import EXIT_CODES

ROOT = Path(__file__).parents[2]
REPOSITORY = ("--model-repository", str(ROOT / "examples/digits/models"))
NOWHERE = ("--kafka", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1", "--connect-timeout", "0.1")
SERVE = ("serve", "--model-repository", "models", "--http-port", "0", "--metrics-port", "0")
GATEWAY = ("gateway", *NOWHERE)
KNOWN = {1, 2, 130, *EXIT_CODES.values()}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo the command line's changes to logging and environment."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(
        os,
        "environ",
        {name: os.environ[name] for name in os.environ if not name.startswith("PENSTOCK_")} | {"COLUMNS": "400"},
    )
    yield
    root.handlers[:], root.level = handlers, level


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and all output; any exception fails the test."""
    monkeypatch.setattr("sys.argv", ["penstock", *arguments])
    try:
        penstock.cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


HUGE = "99999999999999999999"
NUMBERS = [
    (flag, value)
    for flags, values in (
        (("--default-timeout", "--result-ttl", "--repository-poll-secs"), ("nan", "inf", "-1", "0")),
        (("--unload-grace", "--drain-grace"), ("nan", "inf", "-1", "soon")),
        (("--max-queued-calls", "--partitions", "--max-attempts"), ("0", "-1", HUGE)),
        (("--cores", "--default-max-batch-size", "--http-port", "--metrics-port"), ("-1", HUGE, "1.5")),
    )
    for flag in flags
    for value in values
]


@pytest.mark.parametrize(("flag", "value"), NUMBERS)
def test_a_number_that_makes_no_sense_is_refused_by_the_flags_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str, value: str
) -> None:
    code, said = run(monkeypatch, capsys, "serve", "--model-repository", str(tmp_path), flag, value)

    assert code in (2, 3), said
    assert flag in said or flag.strip("-").replace("-", "_") in said, said


CASES: list[tuple[tuple[str, ...], int, str]] = [
    # serve
    (("serve",), 3, "nothing to serve"),
    ((*SERVE, "--host", "0.0.0.0"), 3, "no API key is set"),
    ((*SERVE, "--host", "no such host", "--api-key", "k"), 3, "cannot listen on no such host"),
    ((*SERVE, "--host", "0.0.0.0", "--api-key", "ключ"), 3, "printable ASCII"),
    ((*SERVE, "--http-port", "18999", "--metrics-port", "18999"), 3, "are both 18999"),
    ((*SERVE, "--prefix", "UPPER"), 3, "prefix 'UPPER' must match"),
    ((*SERVE, "--load-model", "x"), 3, "--load-model is valid only with --model-control-mode explicit"),
    ((*SERVE, "--model-control-mode", "explicit", "--load-model", "x"), 3, "failed to load 'x'"),
    ((*SERVE, "--tls-certificate", "gone.pem"), 3, "TLS needs both"),
    ((*SERVE, "--tls-certificate", "gone.pem", "--tls-key", "gone.pem"), 3, "gone.pem"),
    ((*SERVE, "--tls-certificate", str(ROOT / "README.md"), "--tls-key", str(ROOT / "README.md")), 3, "README.md"),
    ((*SERVE, "--fsync"), 3, "fsync"),
    ((*SERVE, "--data-dir", "/proc/penstock"), 3, "/proc/penstock"),
    ((*SERVE, "--data-dir", str(ROOT / "README.md")), 2, "README.md"),
    (("serve", "--model-repository", "gone"), 2, "gone"),
    (("serve", "--model-repository", str(ROOT / "README.md")), 2, "README.md"),
    (("serve", str(ROOT / "README.md"), "--http-port", "0", "--metrics-port", "0"), 3, "cannot be served: it is text"),
    (("serve", str(ROOT / "examples")), 2, "is a folder"),
    (("serve", "--log-level", "loud"), 2, "loud"),
    (("serve", "--nonsense"), 2, "No such option"),
    # gateway and worker
    (("gateway",), 3, "needs --kafka"),
    (("gateway", "--kafka", "127.0.0.1:1"), 3, "needs both --kafka and --redis"),
    (("gateway", *NOWHERE), 7, "127.0.0.1:1"),
    (("gateway", "--kafka", "127.0.0.1:1", "--redis", "nonsense"), 3, "Redis URL"),
    (("gateway", "--kafka", "127.0.0.1:x", "--redis", "redis://127.0.0.1:1", "--connect-timeout", "0.1"), 3, "127.0.0.1:x"),
    ((*GATEWAY, "--kafka-security-protocol", "SSL", "--kafka-ssl-cafile", str(ROOT / "README.md")), 3, "Kafka's security"),
    (("gateway", *NOWHERE, "--session-timeout", "nan"), 3, "--session-timeout"),
    (("worker",), 3, "needs --kafka"),
    (("worker", *NOWHERE), 3, "needs --model-repository"),
    (("worker", *NOWHERE, *REPOSITORY, "--worker", "a b", "--not-supervised"), 3, "worker id 'a b'"),
    (("worker", *NOWHERE, *REPOSITORY, "--not-supervised", "--metrics-port", "0"), 7, "127.0.0.1:1"),
    # scaler
    (("scaler",), 3, "needs --kafka"),
    (("scaler", *NOWHERE, "--tls-certificate", "x"), 3, "TLS needs both"),
    (("scaler", *NOWHERE), 7, "127.0.0.1:1"),
    # infer and models
    (("infer",), 2, "Missing argument"),
    (("infer", "m", "--url", "http://127.0.0.1:1"), 7, "cannot be reached"),
    (("infer", "m", "--random", "--url", "http://127.0.0.1:1"), 7, "cannot be reached"),
    (("infer", "m", "--random", "0"), 2, "--random"),
    (("infer", "m", "--random", "2", "-f", str(ROOT / "README.md")), 3, "from --file, or from --input and --random"),
    (("infer", "m", "--shape", "x=1", "-f", str(ROOT / "README.md")), 3, "from --file, or from --input and --random"),
    (("infer", "m", "-i", "x"), 2, "must be NAME=JSON"),
    (("infer", "m", "--insecure", "--url", "grpcs://127.0.0.1:1"), 3, "gRPC always verifies"),
    (("infer", "m", "--random", "--timeout", "-1"), 2, "--timeout"),
    (("infer", "m", "--random", "--timeout", "nan"), 2, "--timeout"),
    (("infer", "m", "-f", "gone.json"), 2, "gone.json"),
    (("models", "--url", "nonsense"), 3, "nonsense"),
    (("models", "--url", ""), 3, "--url"),
    (("models", "--url", "http://[::1"), 3, "http://[::1"),
    (("models", "--url", "http://127.0.0.1:99999"), 3, "99999"),
    (("models", "--url", "ftp://127.0.0.1"), 3, "ftp://"),
    (("models", "--url", "http://no such host"), 3, "no such host"),
    (("models", "--url", "http://127.0.0.1:1"), 7, "cannot be reached"),
    (("models", "--api-key", "ключ"), 3, "printable ASCII"),
    (("models", "--api-key", "a\nb"), 3, "printable ASCII"),
    # new
    (("new",), 2, "Missing argument"),
    (("new", ""), 3, "must not be empty"),
    (("new", "a/b"), 3, "'a/b'"),
    (("new", ".hidden"), 3, "'.hidden'"),
    (("new", "a\nb"), 3, "'a\\nb'"),
    (("new", "x" * 300), 3, "too long"),
    (("new", "x", "--model-repository", "/proc/penstock"), 3, "/proc/penstock"),
    (("new", "x", "--model-repository", str(ROOT / "README.md")), 2, "README.md"),
    # check
    (("check",), 2, "Missing argument"),
    (("check", "gone"), 2, "gone"),
    (("check", str(ROOT / "README.md")), 2, "README.md"),
    (("check", str(ROOT / "examples/digits/models/digits")), 3, "give the folder above it"),
    # dead
    (("dead",), 2, "penstock dead list"),
    (("dead", "list"), 3, "--data-dir"),
    (("dead", "list", "--data-dir", str(ROOT / "docs")), 4, "is not the folder of a penstock serve"),
    (("dead", "list", *NOWHERE), 7, "127.0.0.1:1"),
    (("dead", "list", *NOWHERE, "--since", "yesterday"), 3, "yesterday"),
    (("dead", "list", *NOWHERE, "--reason", "bad"), 2, "bad"),
    (("dead", "show"), 2, "Missing argument"),
    (("dead", "reproduce"), 3, "--from FOLDER"),
    (("dead", "reproduce", "--from", str(ROOT / "docs")), 4, "docs"),
    (("dead", "redrive", *NOWHERE, "--rate", "-1"), 2, "--rate"),
    # verify
    (("verify",), 3, "needs --kafka"),
    (("verify", *NOWHERE, "--faults", "fire"), 3, "--faults has no fire"),
    (("verify", *NOWHERE, "--seed", "x"), 3, "--seed 'x'"),
    (("verify", *NOWHERE, "--report", "/proc/penstock/x.json"), 3, "/proc/penstock"),
    (("verify", *NOWHERE, "--history", "/proc/penstock/x.json"), 3, "/proc/penstock"),
    # doctor
    (("doctor", "--kafka", "127.0.0.1:1"), 1, "needs both --kafka and --redis"),
    (("doctor", *NOWHERE), 1, "127.0.0.1:1"),
    (("doctor", "--kafka", "nonsense:port:1", "--redis", "nonsense"), 1, "Redis URL"),
    (("doctor", "--model-repository", "gone"), 1, "'gone' is not a folder"),
    (("doctor", "--model-repository", str(ROOT / "README.md")), 1, "is not a folder"),
    (("nosuch",), 2, "No such command"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "said"), CASES, ids=[" ".join(case[0])[-60:] for case in CASES])
def test_what_is_wrong_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()

    ended, text = run(monkeypatch, capsys, *arguments)

    assert ended == code, text
    assert said in text
    assert "Traceback" not in text
    assert code in KNOWN


def test_a_url_of_another_server_is_distinguished_from_a_gateway(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        listed = run(monkeypatch, capsys, "models", "--url", url)
        asked = run(monkeypatch, capsys, "infer", "m", "--random", "--url", url)
        server.shutdown()

    for code, said in (listed, asked):
        assert code == 3
        assert "is not answered by a gateway: its answer begins with '<html>hello'" in said


@pytest.mark.parametrize("flag", ["--http-port", "--metrics-port"])
def test_a_port_that_is_taken_is_named_with_the_flag_that_chooses_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = {"--http-port": "0", "--metrics-port": "0"} | {flag: str(other.getsockname()[1])}

        code, said = run(
            monkeypatch,
            capsys,
            "serve",
            "--model-repository",
            str(tmp_path),
            *(word for pair in ports.items() for word in pair),
        )

    assert code == 3
    assert f"127.0.0.1:{ports[flag]}" in said
    assert f"choose another {flag}" in said
    assert "Traceback" not in said


def ended(arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a process whose standard output is no longer read."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=50, check=False
    )
    os.close(writer)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["doctor"], ["check", str(ROOT / "examples/digits/models"), "--no-inspect"], ["--version"]],
    ids=lambda arguments: arguments[0],
)
def test_a_reader_that_has_gone_ends_a_command_in_silence(arguments: list[str]) -> None:
    assert ended(arguments) in ((141, ""), (1, ""))


@pytest.mark.parametrize(
    "variables",
    [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}],
)
def test_names_in_any_script_are_printed_on_any_terminal(tmp_path: Path, variables: dict[str, str]) -> None:
    for arguments in (["new", "größe", "--model-repository", str(tmp_path)], ["check", str(tmp_path), "--no-inspect"]):
        done = subprocess.run(
            [sys.executable, "-m", "penstock", *arguments],
            capture_output=True,
            timeout=50,
            env={name: value for name, value in os.environ.items() if not name.startswith("LC_")} | variables,
            cwd=ROOT,
            check=False,
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        assert b"gr" in done.stdout
    assert (tmp_path / "größe" / "config.pbtxt").read_text("utf-8").splitlines()[1] == 'name: "größe"'


@pytest.mark.parametrize("name", ['a"b', "it's", "a b", "back\\slash", "{braces}", "größe"])
def test_a_new_model_of_any_name_is_one_that_can_be_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    made = run(monkeypatch, capsys, "new", name, "--model-repository", str(tmp_path))
    checked = run(monkeypatch, capsys, "check", str(tmp_path), "--no-inspect")

    assert (made[0], checked[0]) == (0, 0), made[1] + checked[1]
    assert f"{name}: " in checked[1]
