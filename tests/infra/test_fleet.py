import json
import operator
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from infra.local.fleet import fleet, gateway, worker
from infra.local.process import free_port, wait_until
from infra.local.servers import KAFKA_VARIABLE, REDIS_VARIABLE, Servers
from protocol.errors import Unavailable

HELD_BACK = Path(__file__).parents[2] / "examples" / "digits" / "held_back.npz"
DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "models"
FloatArray = npt.NDArray[np.float32]
BACKING = Servers(kafka="127.0.0.1:9092", redis="redis://127.0.0.1:6379/0")


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return False
    return True


def classify(model: str, images: FloatArray) -> list[int]:
    """The digits that the served model reads in the images, in one request."""
    tensor = {"name": "image", "datatype": "FP32", "shape": images.shape, "data": images.ravel().tolist()}
    request = urllib.request.Request(f"{model}/infer", json.dumps({"inputs": [tensor]}).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
    digits: list[int] = outputs["digit"]
    return digits


def test_a_worker_gets_its_models_broker_and_store(tmp_path: Path) -> None:
    command = worker(tmp_path, "worker-1", BACKING, [Path("/a"), Path("/b")]).command()

    assert command[3:12] == [
        "worker", "--model-repository", "/a", "--model-repository", "/b",
        "--kafka", "127.0.0.1:9092", "--redis", "redis://127.0.0.1:6379/0",
    ]  # fmt: skip


def test_two_workers_share_no_folder_and_no_port(tmp_path: Path) -> None:
    one, two = (worker(tmp_path, f"worker-{number}", BACKING, [DIGITS]) for number in (1, 2))

    assert one.data != two.data
    assert one.port != two.port


def test_a_gateway_is_asked_on_its_http_port(tmp_path: Path) -> None:
    process = gateway(tmp_path, BACKING, 8123)

    assert process.address == "127.0.0.1:8123"
    assert "8123" in process.command()
    assert not process.answers()


@pytest.mark.servers
def test_a_fleet_serves_the_demos_model_and_ends_with_the_with(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    held_back = np.load(HELD_BACK)
    environ = {**os.environ, KAFKA_VARIABLE: kafka_bootstrap, REDIS_VARIABLE: redis_url}
    with fleet(tmp_path, [DIGITS], http_port=free_port(), environ=environ) as running:
        assert [process.name for process in running.processes] == ["gateway", "worker-1", "worker-2"]
        model = f"{running.url}/v2/models/digits"
        assert wait_until(lambda: answers(f"{model}/ready"), time.monotonic() + 30)
        seen = classify(model, (held_back["pixels"][:32] / 16).astype(np.float32))

        assert sum(map(operator.eq, seen, held_back["labels"][:32])) >= 30

    for process in running.processes:
        assert not process.running
        with pytest.raises(Unavailable):
            _ = process.pid
