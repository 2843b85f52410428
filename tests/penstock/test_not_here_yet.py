"""README's "Not here yet": each line is tried, and refused in words that say why. An attempt that succeeds fails the test."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from infra.local.redis import RedisServer
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Attempt = Callable[["Tried"], str]

TENSORS = (
    'input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ] output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]'
)
IDENTITY = "class Model:\n    def predict(self, X):\n        return {'Y': X}\n"
STEP = 'step [ { model_name: "a" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" } } ]'
CALLS_ANOTHER = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceRequest(model_name="other", inputs=r.inputs()).exec() for r in requests]
"""
REPOSITORY = {
    "sequence": ("sequence_batching { }", IDENTITY),
    "ensemble": (f'platform: "ensemble" ensemble_scheduling {{ {STEP} }}', IDENTITY),
    "decoupled": ('backend: "python" model_transaction_policy { decoupled: true }', IDENTITY),
    "environment": ('parameters { key: "EXECUTION_ENV_PATH" value { string_value: "env.tar.gz" } }', IDENTITY),
    "numa": ('instance_group [ { host_policy: "numa0" } ]', IDENTITY),
    "openvino": ('backend: "openvino"', IDENTITY),
    "calls": ('backend: "python"', CALLS_ANOTHER),
}
HEAD = "class Model:\n    inputs = {'X': ('FP32', [1])}\n    outputs = {'Y': ('FP32', [1])}\n\n"
FILES = {
    "waits.py": HEAD + "    async def predict(self, X):\n        return {'Y': X}\n",
    "yields.py": HEAD + "    def predict(self, X):\n        yield {'Y': X}\n",
    "plain.py": "def predict(X):\n    return {'Y': X}\n",
}


class Tried:
    """What the attempts need: a folder with models, and a server of those that could load."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, (config, code) in REPOSITORY.items():
            (folder / "models" / name / "1").mkdir(parents=True)
            (folder / "models" / name / "1" / "model.py").write_text(code)
            (folder / "models" / name / "config.pbtxt").write_text(f"{TENSORS} {config}")
        for name, code in FILES.items():
            (folder / name).write_text(code)
        (folder / "engine.plan").write_bytes(b"ftrt" + bytes(64))
        (folder / "saved").mkdir()
        (folder / "saved" / "saved_model.pb").write_bytes(bytes(64))
        self.checked = self.penstock("check", "models")
        files = [str(folder / name) for name in ("waits.py", "yields.py")]
        flags = ("--no-exit-on-error", "--allow-shared-memory")
        self.server = Process("serve", folder / "log", "serve", *files, *flags)

    def penstock(self, *words: str) -> str:
        """What a command that has to fail says."""
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(self.folder)}
        ports = {f"PENSTOCK_{name}_PORT": "0" for name in ("HTTP", "GRPC", "METRICS")}
        done = subprocess.run(
            [sys.executable, "-m", "penstock", *words], capture_output=True, text=True, cwd=self.folder, check=False,
            timeout=60, env=environment | ports,
        )  # fmt: skip
        assert done.returncode != 0, f"penstock {' '.join(words)} succeeded:\n{done.stdout}"
        return done.stdout + done.stderr


def check(model: str) -> Attempt:
    """`penstock check` of a model of the repository: its paragraph."""
    return lambda tried: re.findall(rf"^{model}: .*(?:\n    .*)+", tried.checked, re.MULTILINE)[0]


def command(*words: str) -> Attempt:
    return lambda tried: tried.penstock(*words)


def call(model: str) -> Attempt:
    """A call of a served file, refused at the call or at its load: the answer, and the log's lines about the model."""

    def attempt(tried: Tried) -> str:
        body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
        answer = httpx.post(f"{tried.server.url}/v2/models/{model}/infer", json=body, timeout=30)
        assert answer.status_code >= 400, f"{model} answered {answer.text}"
        log = tried.server.log.read_text()
        return "\n".join(
            [answer.text, *[line for line in log.splitlines() if f"'{model}" in line or f"model={model} " in line]]
        )

    return attempt


def cuda_memory(tried: Tried) -> str:
    body = {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 4}
    answer = httpx.post(f"{tried.server.url}/v2/cudasharedmemory/region/x/register", json=body)
    assert answer.status_code >= 400, answer.text
    return answer.text


TRIED: dict[str, list[tuple[Attempt, str]]] = {
    "Sequence batching (stateful models) and ensembles": [
        (check("sequence"), "refused(.|\n)*sequences .* are not supported yet"),
        (check("ensemble"), "refused(.|\n)*ensembles are not supported yet"),
    ],
    "Several answers to one request: decoupled models, streams of tokens": [
        (check("decoupled"), "refused(.|\n)*decoupled models are not supported yet"),
        (call("yields"), "predict .* is a generator, which is not supported yet"),
    ],
    "Python models that are plain functions, `async def` or generators, and calls from one model to another": [
        (command("serve", "plain.py"), "plain.py .* has neither class TritonPythonModel nor class Model"),
        (call("waits"), "predict .* is an 'async def', which is not supported yet"),
        (call("yields"), "predict .* is a generator, which is not supported yet"),
        (check("calls"), r"InferenceRequest \(calls of other models\), which is not supported"),
    ],
    "TensorRT, TensorFlow and OpenVINO; models of theirs that are exported to ONNX are served": [
        (command("serve", "engine.plan"), "there is no backend 'tensorrt'|TensorRT"),
        (command("serve", "saved"), "TensorFlow SavedModel: pip install tf2onnx"),
        (check("openvino"), "there is no backend 'openvino'"),
    ],
    "Python environments that come with a model (`EXECUTION_ENV_PATH`)": [
        (check("environment"), "'EXECUTION_ENV_PATH' .* is not supported: models run in the worker's own Python"),
    ],
    "CUDA shared memory, and instances bound to NUMA nodes": [
        (cuda_memory, "GPUs not supported: a gateway has no device"),
        (check("numa"), "refused(.|\n)*instances are not bound to NUMA nodes yet"),
    ],
    "Model repositories at `gs://` and `as://`, and a Redis Cluster": [
        (command("serve", "--model-repository", "gs://bucket"), "repositories at gs:// are not supported"),
        (command("serve", "--model-repository", "as://bucket"), "repositories at as:// are not supported"),
    ],
}
"""By the line of README; the Redis Cluster has a test of its own."""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    made = Tried(tmp_path_factory.mktemp("tried"))
    try:
        wait_for("the server", lambda: b"gateway is serving" in made.server.log.read_bytes())
        yield made
    finally:
        made.server.stop()


def lines() -> list[str]:
    """The section's items, and at most twelve lines in all."""
    text = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^## Not here yet\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert len(section.strip().splitlines()) <= 12
    return re.findall(r"^- (.+)$", section, re.MULTILINE)


def test_every_line_of_the_section_is_tried() -> None:
    assert lines() == list(TRIED)


@pytest.mark.parametrize(
    ("attempt", "said"),
    [pair for pairs in TRIED.values() for pair in pairs],
    ids=[f"{line[:24]}-{n}" for line, pairs in TRIED.items() for n, _ in enumerate(pairs)],
)
def test_it_is_refused_in_words_that_say_why(tried: Tried, attempt: Attempt, said: str) -> None:
    answer = attempt(tried)

    assert re.search(said, answer), answer
    assert "Traceback" not in answer.splitlines()[-1]


@pytest.mark.servers
@pytest.mark.parametrize("own_redis", [{"cluster-enabled": "yes"}], indirect=True)
def test_a_redis_cluster_is_refused(own_redis: RedisServer, kafka_bootstrap: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "doctor", "--kafka", kafka_bootstrap, "--redis", own_redis.url],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 1
    assert re.search("Redis Cluster.*, which is not supported", done.stdout), done.stdout
