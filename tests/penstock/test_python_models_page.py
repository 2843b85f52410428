"""docs/python-models.md, run as written: every example and call, and what the text says beside them."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from gateway.settings import GatewaySettings
from penstock.client import Client
from protocol.model_config import pbtxt
from protocol.model_config.checks import MAX_INSTANCES
from protocol.tensors import Tensor, from_array
from tests.integration.fleet import wait_for
from tests.pages import ROOT, Place
from tests.penstock.python_models_behaviour import MODELS, TENSORS
from tests.producers.examples import examples
from workers.repository.completion import DEFAULT_MAX_BATCH_SIZE
from workers.repository.placement import place as place_instances
from workers.settings import WorkerSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PAGE = ROOT / "docs" / "python-models.md"
TEXT = PAGE.read_text()
BLOCKS = {name: block.text for name, block in examples(PAGE).items()}
SHOWN = re.findall(r"^```sh ([\w-]+)\n(?:(?!```).)*^```\n\n```\n(.*?)\n```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = ("scale", "root", "words", "picky")
WARM = "class Model:\n    def predict(self, X):\n        print('warm', X.tolist())\n        return {'Y': X}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The page's files and folders on one server, with the models of the other sentences."""
    made = Place(tmp_path_factory.mktemp("page"))
    for name in FILES:
        made.write(f"{name}.py", BLOCKS[name])
    models = {name: (BLOCKS[f"{name}-config"], BLOCKS[name]) for name in ("offset", "hangs", "counter")}
    models["warm"] = (f"{TENSORS}\n{BLOCKS['warm-config']}", WARM)
    for name, (config, code) in (models | MODELS).items():
        made.write(f"models/{name}/config.pbtxt", config)
        made.write(f"models/{name}/1/model.py", code)
    made.write("models/unready/1/helper.py", "READY = False\n")
    folder = BLOCKS["serve-folder"].removeprefix("penstock serve").strip()
    with made.serving(f"{BLOCKS['serve-files'].strip()} {folder} --no-exit-on-error"):
        yield made


def call(place: Place, model: str, *rows: int, form: str = "X") -> httpx.Response:
    shape = [len(rows)] if model == "flat" else [len(rows), 1]
    body = {"inputs": [{"name": form, "datatype": "INT32", "shape": shape, "data": rows}]}
    return httpx.post(f"{place.url}/v2/models/{model}/infer", json=body, timeout=30)


def data(answer: httpx.Response) -> list[object]:
    assert answer.status_code == 200, answer.text
    values: list[object] = answer.json()["outputs"][0]["data"]
    return values


def test_every_call_prints_what_the_page_shows(place: Place) -> None:
    assert [name for name, _ in SHOWN] == ["scale-call", "root-call", "words-call", "hangs-call"]
    for name, shown in SHOWN:
        assert place.shell(BLOCKS[name]) == shown
    assert '"max_batch_size":32' in place.shell(BLOCKS["config-call"])


def test_an_optional_input(place: Place) -> None:
    inputs = [{"name": name, "datatype": "INT32", "shape": [1, 1], "data": [4]} for name in ("X", "OFFSET")]
    url = f"{place.url}/v2/models/offset/infer"

    assert data(httpx.post(url, json={"inputs": inputs[:1]})) == [4]
    assert data(httpx.post(url, json={"inputs": inputs})) == [8]


def test_two_instances_count_apart(place: Place) -> None:
    def begun() -> bool:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers.extend(data(call)[0] for call in pool.map(lambda n: call_counter(place, n), range(32)))
        return answers.count(1) >= 2

    def call_counter(place: Place, number: int) -> httpx.Response:
        return call(place, "counter", *[number] * 20)  # two do not fit into a batch

    answers: list[object] = []
    wait_for("both instances", begun)


def test_an_exception_is_one_callers_and_one_record(place: Place) -> None:
    answer = call(place, "picky", 1, -1)

    assert answer.status_code == 500
    assert answer.headers["penstock-error"] == "MODEL_FAILED"
    assert re.search(
        r"ValueError: X must not be negative\n\nAt:\n  .*picky\.py\(7\): predict\n", answer.json()["error"]
    )
    assert len(re.findall(r"^.*\[error +\].*picky.*$", place.log, re.MULTILINE)) == 1
    assert 'raise ValueError("X must not be negative")' in place.log
    assert data(call(place, "picky", 1, 2)) == [2, 4]


def test_answers_that_do_not_fit(place: Place) -> None:
    assert data(call(place, "strange", 0)) == [0]
    for number, said in ((1, "as INT64; its configuration says INT32"), (2, r"shape \[0, 1\] for a batch of 1 rows"),
                         (3, r"no output 'Y'; it returned \['Z'\]"), (4, "must return a dict of arrays, not list")):  # fmt: skip
        answer = call(place, "strange", number)
        assert answer.status_code == 500
        assert re.search(said, answer.text), answer.text


def test_errors_of_tritons_form_have_the_statuses_that_the_page_says(place: Place) -> None:
    codes = [
        "UNKNOWN",
        "INTERNAL",
        "NOT_FOUND",
        "INVALID_ARG",
        "UNAVAILABLE",
        "UNSUPPORTED",
        "ALREADY_EXISTS",
        "CANCELLED",
    ]
    found = {code: call(place, "codes", number).status_code for number, code in enumerate(codes)}
    stated = " ".join(TEXT[TEXT.index("- To refuse a request with 4xx") : TEXT.index("- An exception at load")].split())

    assert "`INVALID_ARG` or `UNKNOWN` is 400" in stated
    assert {found["INVALID_ARG"], found["UNKNOWN"]} == {400}
    for code, status in re.findall(r"`([A-Z_]+)`(?: \(the default\))? (\d{3})", stated):
        assert found[code] == int(status), code
    assert "kind CPU 0" in place.log


def test_a_process_that_dies_is_replaced_and_the_request_is_a_dead_letter(place: Place) -> None:
    answer = call(place, "strange", 9)

    assert answer.status_code == 500
    assert "alone and in 3 runs in all; it is in the dead letters" in answer.text
    assert data(call(place, "strange", 0)) == [0]


def test_strings(place: Place) -> None:
    assert data(call(place, "texts", 0)) == ["a"]
    assert data(call(place, "texts", 1)) == ["ä"]
    refused, wrong = call(place, "texts", 2), call(place, "texts", 3)
    assert (refused.status_code, wrong.status_code) == (400, 500)
    assert "binary_data" in refused.text
    assert "an element of type int; BYTES holds bytes or str" in wrong.text


def test_which_arrays_a_model_gets(place: Place) -> None:
    inputs: dict[str, npt.ArrayLike | Tensor] = {
        "H": np.ones((1, 1), np.float16), "F": from_array("F", np.ones((1, 1), np.uint16), "BF16"), "B": np.ones((1, 1), bool),
        "I": np.ones((1, 1), np.int8), "S": np.array([["text"]], object),
    }  # fmt: skip
    with Client(place.url) as client:
        (said,) = client.infer("kinds", inputs, timeout=30).outputs["Y"][0]

    assert said == b"B=bool F=uint16 H=float16 I=int8 S=object bytes"


def test_batches_and_shapes(place: Place) -> None:
    assert data(call(place, "flat", 7, 7, 7)) == [1, 1, 1]
    assert data(call(place, "smaller", 1, 2)) == [1, 2]
    refused = call(place, "smaller", 1, 2, 3)
    assert refused.status_code == 400
    assert "batch" in refused.text


def test_where_it_runs(place: Place) -> None:
    (said,) = data(call(place, "process", 1))
    key, openmp, rayon, thread, child, parent = str(said).split()
    (worker,) = data(call(place, "thread", 1))

    assert (key, thread) == ("None", "MainThread")
    assert openmp == rayon
    assert int(openmp) >= 1
    assert len({child, parent, str(worker)}) == 3
    assert place.log.count("imported process") == 2, "once for each instance"


def test_loads(place: Place) -> None:
    assert place.log.count("warm [[") == 3
    assert re.search(r"model=both .*'execute'|'execute'.* model=both", place.log), place.log
    on_gpu = httpx.get(f"{place.url}/v2/models/gpu/ready").status_code == 200
    assert on_gpu or "has kind KIND_GPU but no GPUs are available" in place.log
    not_ready = httpx.get(f"{place.url}/v2/models/unready/ready")
    assert not_ready.status_code == 503


@pytest.mark.parametrize(
    ("group", "devices"),
    [("", [0, 1]), ("kind: KIND_GPU gpus: [ 0 ]", [0]), ("kind: KIND_CPU", [None]), ("kind: KIND_MODEL", [None])],
)
def test_which_instances_a_worker_with_two_gpus_has(group: str, devices: list[int | None]) -> None:
    config = pbtxt.parse(f'name: "m" backend: "python" {TENSORS} instance_group [ {{ {group} }} ]')

    assert [each.device_id for each in place_instances(config, [0, 1], 4)] == devices


def test_limits(place: Place) -> None:
    assert call(place, "large", 16 * 2**20 + 1).status_code == 413
    body = b'{"inputs": [' + b" " * 16 * 2**20 + b"]}"
    assert httpx.post(f"{place.url}/v2/models/scale/infer", content=body).status_code == 413
    assert f"| instances of a model on a worker | {MAX_INSTANCES:,} |" in TEXT
    assert f"batches up to {DEFAULT_MAX_BATCH_SIZE} rows" in TEXT
    assert f"A caller waits for {GatewaySettings().default_timeout:.0f} s (`--default-timeout`)" in TEXT
    assert f"with {['', '', 'two', 'three'][WorkerSettings().max_attempts]} runs (`--max-attempts`)" in TEXT


def test_finalize_is_called_at_an_orderly_end(tmp_path: Path) -> None:
    own = Place(tmp_path)
    own.write("models/codes/config.pbtxt", MODELS["codes"][0])
    own.write("models/codes/1/model.py", MODELS["codes"][1])
    with own.serving(BLOCKS["serve-folder"]):
        assert "finalized" not in own.log
    assert "finalized" in own.log
