"""docs/batch.md, run as written: every command, in order, against `penstock serve`."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.client import Client
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "batch.md").read_text()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The page's folder and the server's URL."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "models" / "sums" / "1").mkdir(parents=True)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "models" / "sums" / "1" / "model.py").write_text(code)
    process = Process("serve", folder / "serve.log", "serve", "--model-repository", str(folder / "models"))
    try:
        with Client(process.url) as client:
            wait_for("the server", client.ready)
        yield folder, process.url
    finally:
        process.stop()


def shell(line: str, folder: Path, url: str) -> str:
    """The output of the page's lines, run with this Python's commands."""
    python = f"{shlex.quote(sys.executable)} -m penstock"
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", f"penstock() {{ {python} \"$@\"; }}\n{line}"],
        capture_output=True, text=True, cwd=folder, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder), "PENSTOCK_URL": url},
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_of_the_page(served: tuple[Path, str]) -> None:
    folder, url = served
    serve, first, mixed, csv, parquet, again, jobs = re.findall(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)
    assert serve == "penstock serve --model-repository models"
    (answers,) = re.findall(r"```\n(\{\"line\".*?\n)```", PAGE, re.DOTALL)
    assert shell(first, folder, url) == answers
    bad = [json.loads(line) for line in shell(mixed, folder, url).splitlines()]
    assert [(entry["line"], entry["error"]["code"]) for entry in bad] == [
        (2, "INVALID_ARGUMENT"), (3, "INVALID_ARGUMENT"), (4, "MODEL_FAILED"),
    ]  # fmt: skip
    said = " ".join(PAGE.split())
    assert json.dumps(bad[1]) in said
    shell(csv, folder, url)
    assert "26.0" in (folder / "from-csv.jsonl").read_text()
    assert '"SUM":[10.0]' in (folder / "from-pixels.jsonl").read_text()
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    shell(parquet, folder, url)
    rows = pyarrow.parquet.read_table(folder / "answers.parquet").to_pylist()
    assert [(row["line"], row["SUM"], row["error_code"]) for row in rows] == [(2, [10.0], None), (3, [26.0], None)]
    (folder / "answers.jsonl").write_text("of another job")
    shell(again, folder, url)
    assert (folder / "answers.jsonl").read_text() == answers
    listed = shell(jobs, folder, url)
    assert re.search(r"^first +done +sums +2 +0 ", listed, re.MULTILINE), listed
    assert "job first is done already" in listed
    assert str(folder / "answers.jsonl") in listed


def run(folder: Path, url: str, *arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """`penstock batch submit sums …`"""
    return subprocess.run(
        [sys.executable, "-m", "penstock", "batch", "submit", "sums", *arguments, "--url", url],
        capture_output=True, text=True, cwd=folder, check=False, timeout=60,
        env=os.environ | {"XDG_STATE_HOME": str(folder / "state")}, **more,
    )  # fmt: skip


def write(folder: Path, count: int, name: str = "in.jsonl") -> Path:
    (folder / name).write_text("".join(f'{{"X": [{line}, 2, 3, 4]}}\n' for line in range(100, 100 + count)))
    return folder / name


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.jsonl", "-o", "out.jsonl"], 4, "there is no input file 'none.jsonl'"),
        (["in.jsonl", "-o", "none/out.jsonl"], 3, "there is no folder 'none'"),
        (["in.jsonl", "-o", "."], 3, "is a folder; name a file in it"),
        ([".", "-o", "out.jsonl", "--input-format", "jsonl"], 3, "is a folder; give one file"),
        (["in.jsonl", "-o", "in.jsonl"], 3, "the input and the output are the same file 'in.jsonl'"),
        (["in.jsonl", "-o", "out.jsonl", "--errors", "./out.jsonl"], 3, "the output and --errors are the same file"),
        (["in.jsonl", "-o", "out.jsonl", "--errors", "none/errors"], 3, "--errors 'none/errors' cannot be written"),
        (["in.jsonl", "-o", "out.jsonl", "--job", "../escape"], 3, "job name '../escape' must be 1 to 64 letters"),
        (["in.jsonl", "-o", "out.jsonl", "--job", "a/b"], 3, "job name 'a/b' must be"),
        (["in.jsonl", "-o", "out.jsonl", "--map", "a=NONE"], 3, "model 'sums' has no input 'NONE'; it has X FP32[4]"),
        (["in.jsonl", "-o", "out.jsonl", "--map", "a"], 3, "--map 'a' must be COLUMN=INPUT"),
        (["in.jsonl", "-o", "out.jsonl", "--version", "9"], 4, ""),
        (["in.csv", "-o", "out.jsonl"], 3, "the input has no column 'X', which input 'X' needs; it has 'A'"),
        (["in.jsonl", "-o", "out.jsonl", "--image-column", "X"], 3, "which is no image"),
        (["in.jsonl", "-o", "/dev/full"], 3, "No space left on device"),
    ],
)
def test_what_cannot_work_is_one_line(
    served: tuple[Path, str], tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    write(tmp_path, 10)
    (tmp_path / "in.csv").write_text("A\n1\n")
    done = run(tmp_path, served[1], *arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not (tmp_path / "out.jsonl").exists() or not (tmp_path / "out.jsonl").read_bytes()


def test_a_missing_server_is_said(tmp_path: Path) -> None:
    write(tmp_path, 10)
    done = run(tmp_path, "http://127.0.0.1:9", "in.jsonl", "-o", "out.jsonl")
    assert done.returncode == 7, done.stderr
    assert "reached" in done.stderr


def test_standard_input_and_output(served: tuple[Path, str], tmp_path: Path) -> None:
    lines = write(tmp_path, 100).read_text()
    done = run(tmp_path, served[1], "-", "-o", "-", "--json", input=lines)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == list(range(1, 101))
    assert json.loads(done.stderr.splitlines()[-1])["state"] == "done"


@pytest.mark.parametrize("data", ["", "\n\n"])
def test_an_empty_input_has_an_empty_output(served: tuple[Path, str], tmp_path: Path, data: str) -> None:
    (tmp_path / "in.jsonl").write_text(data)
    done = run(tmp_path, served[1], "in.jsonl", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_strange_rows(served: tuple[Path, str], tmp_path: Path) -> None:
    rows = [
        '{"X": [1, 2, 3, 4]}', '{"X": [NaN, 2, 3, 4]}', '{"X": [1e39, 2, 3, 4]}', f'{{"X": [{10**400}, 2, 3, 4]}}',
        '{"X": [[1, 2], [3, 4]]}', '{"X": [[1], [2], [3], [4]]}', '{"X": "1234"}', '{"X": [true, 2, 3, 4]}',
        '{"X": [null, 2, 3, 4]}', '{"X": {"a": 1}}', '{"Y": [1, 2, 3, 4]}', "[]", "7", '{"X": [1, 2, 3, 4], "id": "x"}',
        '{"X": [1, "2", 3, 4]}', '{"X": []}', '{"X": ' + "[" * 500 + "]" * 500 + "}", '{"X": [18446744073709551616, 0, 0, 0]}',
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    done = run(tmp_path, served[1], "in.jsonl", "-o", "out.jsonl")
    assert done.returncode == 12, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in found] == list(range(1, len(rows) + 1))
    good = [entry["line"] for entry in found if "outputs" in entry]
    assert good == [1, 14, 18]
    assert {entry["error"]["code"] for entry in found if "error" in entry} == {"INVALID_ARGUMENT"}


def test_ctrl_c_while_standard_input_is_silent(served: tuple[Path, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "batch", "submit", "sums", "-", "-o", "out.jsonl", "--url", served[1], "--job", "s"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write('{"X": [1, 2, 3, 4]}\n' * 40)
    process.stdin.flush()
    wait_for(
        "32 answers",
        lambda: (tmp_path / "out.jsonl").exists() and (tmp_path / "out.jsonl").read_bytes().count(b"\n") == 32,
    )
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(10) == 130, said
    assert "the same command goes on" in said
    assert "Fatal" not in said
    process.stdin.close()
    process.stderr.close()


def test_the_reader_of_the_output_ends(served: tuple[Path, str], tmp_path: Path) -> None:
    write(tmp_path, 5000)
    command = ["batch", "submit", "sums", "in.jsonl", "-o", "-", "--url", served[1], "--rows-per-record", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith('{"line":1,')
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(10) == 141, said
    assert "Traceback" not in said


def moved(process: subprocess.Popen[bytes], out: Path, size: int) -> bool:
    """Whether the job has written more than `size` bytes, or has ended."""
    return process.poll() is not None or (out.exists() and out.stat().st_size > size)


def test_killed_again_and_again_over_http(served: tuple[Path, str], tmp_path: Path) -> None:
    count = 20_000
    write(tmp_path, count)
    command = ["batch", "submit", "sums", "in.jsonl", "-o", "out.jsonl", "--job", "k", "--rows-per-record", "16"]
    out, killed = tmp_path / "out.jsonl", 0
    while True:
        size = out.stat().st_size if out.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", *command, "--url", served[1]],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
            env=os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")},
        )  # fmt: skip
        if killed < 4:
            wait_for("progress or the end", functools.partial(moved, process, out, size))
            process.kill()
        if process.wait(60) != -signal.SIGKILL:
            break
        killed += 1
    assert process.returncode == 0
    assert killed >= 2
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [entry["line"] for entry in lines] == list(range(1, count + 1))
    assert all(entry["outputs"]["TWICE"][0] == 2 * (99 + entry["line"]) for entry in lines)


def test_sent_without_waiting_over_http(served: tuple[Path, str], tmp_path: Path) -> None:
    write(tmp_path, 1000)
    assert run(tmp_path, served[1], "in.jsonl", "-o", "out.jsonl", "--no-wait").returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    done = run(tmp_path, served[1], "in.jsonl", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 1000
