"""The example that `penstock serve` prints, run unchanged in a real shell against that server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.example import Server, example
from protocol.model_config import ModelConfig
from protocol.tensors import ITEM_SIZE
from tests.integration.fleet import Process, wait_for
from tests.integration.repositories import write_model
from tests.penstock.picky_models import write_picky_models, write_voice

ROOT = Path(__file__).parents[2]
KEY = """it's a "key" $HOME `id` \\ % !x"""

IDENTITY = 'backend: "identity" {batch} input [ {tensors} ] output [ {tensors} ]'
TENSOR = '{{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ] }}'

OPTIONAL = """
    import numpy as np
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def execute(self, requests):
            return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.int64([7]))]) for _ in requests]
"""
"""Takes one input, which may be missing."""


def identity(repository: Path, model: str, *tensors: tuple[str, str, str], batch: int = 8) -> None:
    """A model that returns its inputs; `tensors` are name, datatype and dims."""
    side = ", ".join(
        TENSOR.format(name=name.replace('"', '\\"'), datatype=datatype, dims=dims) for name, datatype, dims in tensors
    )
    (repository / model / "1").mkdir(parents=True)
    (repository / model / "config.pbtxt").write_text(IDENTITY.format(batch=f"max_batch_size: {batch}", tensors=side))


def lines(process: Process, models: int) -> dict[str, str]:
    """The lines printed for each model."""

    def printed() -> dict[str, str] | None:
        assert process.process.poll() is None, process.tail()
        found = dict(re.findall(r"^(.+) is served at .*; try:\n  (.+)$", process.log.read_text(), re.MULTILINE))
        return found if len(found) == models else None

    return dict(wait_for(f"the lines of {models} models", printed))


def shell(line: str, folder: Path, **environment: str) -> str:
    """The output of a line in a shell whose `penstock` is ours."""
    shim = folder / "bin" / "penstock"
    if not shim.exists():
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m penstock "$@"\n')
        shim.chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=plain | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | environment,
    )
    return done.stdout + done.stderr


SAMPLES = """
    class Model:
        inputs = {"S": ("FP32", [-1]), "T": ("BYTES", [1])}
        outputs = {"Y": ("FP32", [1])}
        max_batch_size = 4

        def predict(self, S, T):
            if S.shape[1] < 8:
                raise ValueError("too short")
            return {"Y": S[:, :1]}
"""
"""Takes eight samples or more, which only a request shows: it does not run before somebody asks for it."""


STANDARD = """
    import numpy as np

    class Model:
        inputs = {"X": ("FP32", [4])}
        outputs = {"Y": ("FP32", [4])}

        def predict(self, X):
            logs = np.log(X)
            return {"Y": (logs - logs.mean(axis=1, keepdims=True)) / logs.std(axis=1, keepdims=True)}
"""
"""Answers zeros, or one number over and over, with what JSON does not have."""


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine, which signs itself, and its key."""
    certificate, key = folder / "c's.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


MODELS = {
    **{datatype.lower(): [("x", "STRING" if datatype == "BYTES" else datatype, "2")] for datatype in ITEM_SIZE},
    "free": [("x", "FP32", "-1, 3, -1"), ("y", "STRING", "-1")],
    "large": [("x", "FP32", "64, 64")],
    "o'dd na\"me $HOME": [("it's", "INT32", "1"), ("näme $x", "BOOL", "-1")],
}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_line_that_is_printed_is_answered_with_a_key_on_all_addresses(tmp_path: Path) -> None:
    for model, tensors in MODELS.items():
        identity(tmp_path / "models", model, *tensors)
    identity(tmp_path / "models", "alone", ("x", "INT64", "2, -1"), batch=0)
    write_model(tmp_path / "models", "optional", OPTIONAL)
    (tmp_path / "models" / "optional" / "config.pbtxt").write_text(
        'input [ { name: "x" data_type: TYPE_INT64 dims: [ 1 ] optional: true } ] '
        'output [ { name: "y" data_type: TYPE_INT64 dims: [ 1 ] } ]'
    )
    write_model(tmp_path / "models", "standard", STANDARD)
    names = sorted([*MODELS, "alone", "optional", "standard"])
    for part in range(0, len(names), 10):  # ten lines are printed at once
        chosen = names[part : part + 10]
        flags = [word for model in chosen for word in ("--load-model", model)]
        process = Process(
            "serve", tmp_path / f"serve-{part}.log", "serve", "--model-repository", str(tmp_path / "models"),
            "--model-control-mode", "explicit", *flags, "--host", "0.0.0.0", "--api-key", KEY,
        )  # fmt: skip
        try:
            printed = lines(process, len(chosen))
            for model in chosen:
                answer = shell(printed[model], tmp_path, PENSTOCK_API_KEY=KEY)
                assert f'"model_name":{_json(model)}' in answer or answer.startswith(f"{model} version 1"), answer
        finally:
            process.stop()
        log = process.log.read_text()
        assert KEY not in log
        assert "0.0.0.0:" not in "".join(printed.values())
        assert "PENSTOCK_API_KEY must hold the API key" in log


def _json(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "::"])
def test_the_line_works_on_every_address_with_tls(tmp_path: Path, host: str) -> None:
    certificate, key = certify(tmp_path)
    identity(tmp_path / "models", "plain", ("x", "FP32", "-1"))
    identity(tmp_path / "models", "half", ("x", "FP16", "2"))
    process = Process(
        "serve", tmp_path / "serve.log", "serve", "--model-repository", str(tmp_path / "models"), "--host", host,
        "--api-key", "k", "--tls-certificate", str(certificate), "--tls-key", str(key),
    )  # fmt: skip
    try:
        for model, line in lines(process, 2).items():
            answer = shell(line, tmp_path, PENSTOCK_API_KEY="k")
            assert '"model_name":"plain"' in answer or answer.startswith(f"{model} version 1"), answer
    finally:
        process.stop()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_free_sizes_are_found_by_trying_at_start_and_by_infer(tmp_path: Path) -> None:
    found = write_picky_models(tmp_path / "models") | {"own_code": "S=1,8"}
    write_voice(tmp_path / "models")
    write_model(tmp_path / "models", "own_code", SAMPLES)
    flags = ("--model-repository", str(tmp_path / "models"), "--data-dir", str(tmp_path / "data"))
    process = Process("serve", tmp_path / "serve.log", "serve", *flags)
    try:
        printed = lines(process, len(found))
        answers = {model: shell(line, tmp_path) for model, line in printed.items()}
        asked = {
            model: shell(f"penstock infer {model} --random --url {process.url}", tmp_path)
            for model in (*found, "voice")
        }
        advice = re.search(r"\n  (penstock infer voice .*)\n", process.log.read_text())
        assert advice is not None
        heard = shell(advice[1].replace("NUMBER", "16000"), tmp_path)
        metrics = process.metric("nv_inference_request_failure")
    finally:
        process.stop()

    for model, answer in answers.items():
        assert f'"model_name":"{model}"' in answer or answer.startswith(f"{model} version 1"), answer
    for model, shape in found.items():
        assert f"{model} version 1" in asked[model], asked[model]
        named = printed[model] if "--shape" in printed[model] else answers[model]
        assert f"--shape {shape}" in named or '"shape":[1,8]' in printed[model]
        assert ("penstock: the model takes these sizes:" in asked[model]) is (model != "tokens")
    assert "state those that the model takes, with --shape samples=N,N" in asked["voice"]
    assert "may have to be a certain one: add -i 'rate=[NUMBER]'" in asked["voice"]
    assert heard.startswith("voice version 1"), heard
    assert metrics > 0, "the requests of infer count"
    assert "onnxruntime:, " not in process.log.read_text(), "onnxruntime's own log of a failed run"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_callers_must_add_is_said_and_works(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    identity(tmp_path / "models", "plain", ("x", "FP32", "2"))
    process = Process(
        "serve", tmp_path / "serve.log", "serve", "--model-repository", str(tmp_path / "models"), "--http-restricted-api",
        "inference:colour=blue", "--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(certificate),
    )  # fmt: skip
    try:
        line = lines(process, 1)["plain"]
        bare = shell(line, tmp_path)
        told = wait_for("the advice", lambda: re.findall(r"add (-.+) to the curl lines", process.log.read_text()))
        flags = " ".join(told).replace("FILE", shlex.quote(str(certificate)), 1).replace("FILE", shlex.quote(str(key)))
        answer = shell(f"{line} {flags.replace('KEY: VALUE', 'colour: blue')}", tmp_path)
    finally:
        process.stop()

    assert "curl: " in bare, "curl says why there is no answer"
    assert '"model_name":"plain"' in answer, answer


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("host", "processes"), [("0.0.0.0", 2), ("127.0.0.2", 1), ("::1", 2)])
def test_the_line_works_with_several_processes_and_on_odd_addresses(tmp_path: Path, host: str, processes: int) -> None:
    identity(tmp_path / "models", "b [1] {c,d}", ("x", "FP32", "2"))
    identity(tmp_path / "models", "half", ("x", "FP16", "2"))
    process = Process(
        "serve", tmp_path / "serve.log", "serve", "--model-repository", str(tmp_path / "models"), "--host", host,
        "--processes", str(processes), "--api-key", "k",
    )  # fmt: skip
    try:
        for model, line in lines(process, 2).items():
            answer = shell(line, tmp_path, PENSTOCK_API_KEY="k")
            assert f'"model_name":{_json(model)}' in answer or answer.startswith(f"{model} version 1"), answer
    finally:
        process.stop()


def test_a_certificate_that_others_see_is_checked() -> None:
    config = ModelConfig.from_json(
        {"name": "m", "backend": "identity", "max_batch_size": 1, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}],
         "output": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}]}
    )  # fmt: skip

    line = example(Server("models.example.org", 443, "/etc/tls/our cert.pem", keyed=True), config)

    assert "--cacert '/etc/tls/our cert.pem' https://models.example.org:443/" in line
    assert "--insecure" not in line
