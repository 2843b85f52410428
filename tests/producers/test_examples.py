"""Every example of docs/producers.md runs as it is printed, on a real broker, a real Redis and a real worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.local.installation import Installation
from tests.integration.fleet import fleet, wait_for
from tests.integration.repositories import ADD, write_model
from tests.producers.examples import PAGE, Place, examples

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(180)]

SUM = "11.0,22.0,33.0,44.0"
EXAMPLES = examples()


@pytest.fixture(scope="module")
def place(kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A fleet of one worker without a gateway: producers need none."""
    folder = tmp_path_factory.mktemp("producers")
    write_model(folder / "models", "add", ADD % (folder / "runs"))
    prefix = f"p{time.time_ns() % 10**9}"
    url = urlsplit(redis_url)
    with fleet(kafka_bootstrap, redis_url, prefix, folder, folder / "models") as running:
        running.add_worker("--partitions", "2", "--batch-lane-max-ms", "200")  # its batches take 30 ms
        running.wait_ready(models=1)
        yield Place(kafka_bootstrap, url.hostname or "127.0.0.1", url.port or 6379, prefix)


def program(name: str, *names: str) -> str:
    """The path of a program that a test needs; without it the test is skipped and says so."""
    for each in (name, *names):
        beside = Path(sys.executable).parent / each
        if found := shutil.which(each) or (str(beside) if beside.exists() else None):
            return found
    pytest.skip(f"{name} is not installed: the example in docs/producers.md is not run (.ci/run installs it)")


def run(command: list[str], folder: Path, within: float = 90.0, **variables: str) -> str:
    """What a program prints; fails with its errors if it fails."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=within, check=False
    )
    assert done.returncode == 0, f"{command[0]} failed with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shell(place: Place, name: str, folder: Path) -> str:
    """What an example for the shell prints."""
    program("kcat")
    beside = os.pathsep.join([os.environ["PATH"], str(Path(program("redis-cli")).parent)])
    return run(["bash", "-euo", "pipefail", "-c", place.put_into(EXAMPLES[name].text)], folder, PATH=beside)


def test_the_page_has_an_example_for_every_client() -> None:
    assert list(EXAMPLES) == [
        "kcat-submit", "kcat-redis", "kcat-topic-submit", "kcat-topic-read", "confluent", "aiokafka", "java", "go",
    ]  # fmt: skip


def test_kcat_submits_json_with_nothing_else_and_redis_cli_reads_the_answer(place: Place, tmp_path: Path) -> None:
    shell(place, "kcat-submit", tmp_path)

    def answered() -> str:
        said = shell(place, "kcat-redis", tmp_path)
        return said if "model_name" in said else ""

    said = wait_for("the answer in Redis", answered)
    assert '"r"' in said
    assert "SUM" in said


def test_kcat_reads_the_answer_from_a_topic(place: Place, tmp_path: Path) -> None:
    shell(place, "kcat-topic-submit", tmp_path)

    def answered() -> str:
        try:
            return shell(place, "kcat-topic-read", tmp_path)
        except AssertionError as error:
            if "Unknown topic" not in str(error):  # the worker makes it with the first answer
                raise
            return ""

    key, value = wait_for("the answer on the topic", answered).splitlines()
    assert key == "row-1  id=row-1,content-type=application/json,model=add,version=1"
    assert f'"data":[{SUM}]' in value
    shown = (EXAMPLES["kcat-topic-read"].text, f"{key}\n{value}\n")
    page = (Path(__file__).parents[2] / "docs" / "producers.md").read_text()
    assert f"{shown[0]}```\n\n```\n{shown[1]}```" in page, "the page shows another answer"


def test_the_readme_shows_the_examples_that_run() -> None:
    shown = examples(PAGE.parents[1] / "README.md")
    assert list(shown) == ["kcat-submit", "kcat-redis", "kcat-topic-submit", "kcat-topic-read"]
    for name, example in shown.items():
        assert example.text == EXAMPLES[name].text


@pytest.mark.parametrize(("name", "answers"), [("confluent", 100), ("aiokafka", 10)])
def test_python_sends_rows_and_reads_every_answer(place: Place, tmp_path: Path, name: str, answers: int) -> None:
    script = tmp_path / "rows.py"
    script.write_text(place.put_into(EXAMPLES[name].text))
    said = run([sys.executable, str(script)], tmp_path)
    assert len(said.splitlines()) == answers
    assert "failed" not in said
    assert name != "confluent" or said.count("(32, 4)") == answers


def test_java_sends_rows_and_reads_every_answer(place: Place, tmp_path: Path, kafka_installation: Installation) -> None:
    program("javac")
    (tmp_path / "Rows.java").write_text(place.put_into(EXAMPLES["java"].text))
    said = run([program("java"), "-cp", kafka_installation.class_path, "Rows.java"], tmp_path)
    lines = [line for line in said.splitlines() if '"outputs"' in line]
    assert len(lines) == 10


def test_go_sends_rows_and_reads_every_answer(place: Place, tmp_path: Path) -> None:
    go = program("go", "/usr/local/go/bin/go")
    version = re.search(r"go1\.(\d+)", run([go, "version"], tmp_path))
    if version is None or int(version[1]) < 21:
        pytest.skip("Go is older than 1.21, which cannot fetch the version that go.mod names: the example is not run")
    (tmp_path / "main.go").write_text(place.put_into(EXAMPLES["go"].text))
    for name in ("go.mod", "go.sum"):
        shutil.copy(Path(__file__).parent / name, tmp_path / name)
    said = run([go, "run", "."], tmp_path, within=170.0, GOFLAGS="-mod=mod -buildvcs=false")
    assert len([line for line in said.splitlines() if '"outputs"' in line]) == 10
