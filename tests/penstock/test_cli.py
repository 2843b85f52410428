"""The command line as a user meets it: real processes, real exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock.cli import COMMANDS, group
from penstock.cli.exits import EXIT_CODES
from protocol.errors import Code

ROOT = Path(__file__).parents[2]


def penstock(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
    )


def test_the_version_needs_no_framework_and_no_client() -> None:
    code = "import sys, penstock.cli as c; c.group(['--version'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)

    version, modules = done.stdout.splitlines()
    assert version.startswith("penstock ")
    assert {"numpy", "httpx", "torch", "onnxruntime", "aiokafka", "starlette"}.isdisjoint(modules.split())


@pytest.mark.parametrize(("chosen", "expected"), [({}, "20"), ({"OPENBLAS_THREAD_TIMEOUT": "4"}, "4")])
def test_threads_of_blas_sleep_soon_unless_somebody_chose(chosen: dict[str, str], expected: str) -> None:
    code = "import os, penstock.cli as c; c.main(); print(os.environ['OPENBLAS_THREAD_TIMEOUT'])"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"} | chosen
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )

    assert done.stdout.splitlines()[-1] == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_by_example(name: str) -> None:
    done = CliRunner().invoke(group, [name, "--help"])

    assert done.exit_code == 0
    assert f"penstock {name}" in done.output


def test_every_code_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(Code)
    assert {0, 1, 2}.isdisjoint(EXIT_CODES.values())


def test_a_new_model_is_one_that_works(tmp_path: Path) -> None:
    made = penstock("new", "mymodel", cwd=tmp_path)
    checked = penstock("check", "models", "--json", cwd=tmp_path)
    again = penstock("new", "mymodel", cwd=tmp_path)

    assert made.returncode == 0, made.stderr
    assert json.loads(checked.stdout)[0]["status"] == "no difference found"
    assert (again.returncode, "already exists" in again.stderr) == (EXIT_CODES[Code.INVALID_ARGUMENT], True)


def test_check_refuses_with_the_reason_and_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "config.pbtxt").write_text('backend: "python" sequence_batching { }')

    done = penstock("check", str(tmp_path))

    assert done.returncode == 1
    assert "bad: refused" in done.stdout
    assert "sequences (stateful models) are not supported yet" in done.stdout


ANSWERS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]) for r in requests]
"""


CONFIG = """
backend: "python"
max_batch_size: 0
input { name: "X" data_type: TYPE_FP32 dims: [ 2 ] }
output { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }
"""


def write_model(repository: Path, name: str, code: str, config: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    (repository / name / "1" / "model.py").write_text(code)


def test_check_runs_models_where_asked_and_says_which_fail(tmp_path: Path) -> None:
    fails = ANSWERS.replace("as_numpy()", "no_such_method()")
    for name, code in (("bad", fails), ("good", ANSWERS)):
        write_model(tmp_path, name, code, CONFIG)

    looked_at = penstock("check", str(tmp_path))
    ran = penstock("check", str(tmp_path), "--run")

    lines = looked_at.stdout.splitlines()
    assert lines[::2] == [
        f"{name}: no difference found (versions 1); looked at: configuration" for name in ("bad", "good")
    ]
    assert all(re.fullmatch(r"    version 1: digest [0-9a-f]{64}", line) for line in lines[1::2])
    lines = ran.stdout.splitlines()
    assert lines[0] == "bad: fails (versions 1); looked at: configuration"
    assert "no_such_method" in lines[1]
    assert lines[-2] == "good: no difference found (versions 1); looked at: configuration, a request of zeros"
    assert (looked_at.returncode, ran.returncode) == (0, 1)


def test_check_prints_each_model_when_it_is_ready(tmp_path: Path) -> None:
    write_model(tmp_path, "a", ANSWERS, CONFIG)
    write_model(tmp_path, "b", "import time\ntime.sleep(600)\n" + ANSWERS, CONFIG)
    line = [sys.executable, "-m", "penstock", "check", str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        still_running = process.poll() is None
        process.terminate()

    assert first == "a: no difference found (versions 1); looked at: configuration\n"
    assert still_running


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["serve"], "nothing to serve"),
        (["gateway"], "needs --kafka"),
        (["worker"], "needs --kafka"),
        (["serve", "--model-repository", "examples/digits/models", "--host", "0.0.0.0"], "no API key is set"),
        (["gateway", "--kafka", "127.0.0.1:1"], "needs both --kafka and --redis"),
        (["infer", "digits", "--url", "http://127.0.0.1:1"], "cannot be reached"),
        (["models", "--url", "http://127.0.0.1:1"], "cannot be reached"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_what_to_do(arguments: list[str], text: str) -> None:
    done = penstock(*arguments)

    assert done.returncode not in (0, 1, 2)
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_flags_are_environment_variables_too() -> None:
    done = penstock("serve", "--model-repository", "examples/digits/models", PENSTOCK_HOST="0.0.0.0")

    assert "no API key is set" in done.stderr


def test_doctor_finds_what_is_missing_and_says_so(tmp_path: Path) -> None:
    done = penstock(
        "doctor", "--kafka", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1", "--connect-timeout", "0.2",
        "--model-repository", "examples/digits/models", "--json",
    )  # fmt: skip
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}

    assert done.returncode == 1
    assert (findings["kafka"]["state"], findings["redis"]["state"]) == ("problem", "problem")
    assert "127.0.0.1:1" in findings["kafka"]["text"]
    assert findings["examples/digits/models"]["state"] == "ok"


def test_doctor_is_content_with_servers_that_answer(kafka_bootstrap: str, redis_url: str) -> None:
    done = penstock("doctor", "--kafka", kafka_bootstrap, "--redis", redis_url)

    assert done.returncode == 0, done.stdout
    assert "ok       kafka" in done.stdout


def test_doctor_names_the_promises_that_a_lone_broker_and_a_forgetful_redis_break(
    kafka_bootstrap: str, redis_url: str
) -> None:
    done = penstock("doctor", "--kafka", kafka_bootstrap, "--redis", redis_url, "--session-timeout", "9999", "--json")
    breaches = [finding["breach"] for finding in json.loads(done.stdout) if finding["breach"]]
    found = {(breach["promise"], breach["setting"]): breach for breach in breaches}

    assert found["I1", "number of brokers"]["value"] == "1"
    assert found["I2", "appendonly"]["command"] == "redis-cli CONFIG SET appendonly yes"
    assert (found["I11", "group.max.session.timeout.ms"]["severe"], done.returncode) == (True, 1)
