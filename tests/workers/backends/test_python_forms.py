"""Python models that are not served yet, or were written for another server: refused in one sentence with the line and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from protocol.errors import ConfigError, ModelFailed
from tests.workers.backends.models import load, request, run, version_of
from tests.workers.backends.test_python import number, write
from workers.backends.python import PythonBackend
from workers.backends.python_forms import foreign_form
from workers.checking.compatibility import Status, check_repositories

SHORT: Final = """
class Model:
    inputs, outputs = {"IN": ("FP32", [1])}, {"OUT": ("FP32", [1])}
"""
TRITON: Final = """
class TritonPythonModel:
"""
LITSERVE: Final = """
import litserve as ls
class Api(ls.LitAPI):
    def predict(self, x): ...
if __name__ == "__main__":
    ls.LitServer(Api()).run()
"""
NOT_YET: Final = [
    (SHORT + "    async def predict(self, IN): ...", r"py:4: predict .* is an 'async def', .*: write 'def predict'"),
    (
        SHORT + "    def predict(self, IN):\n        yield IN",
        r"py:4: predict .* is a generator, .*: return a dict of arrays",
    ),
    (SHORT + "    async def predict(self, IN):\n        yield IN", r"py:4: predict .* is a generator"),
    (SHORT + "    @staticmethod\n    async def predict(IN): ...", r"py:4: predict .* is an 'async def'"),
    (SHORT + "    def infer(self, IN): ...", r"py:2: class Model .* has no method 'predict'; rename its 'infer'"),
    (TRITON + "    async def execute(self, requests): ...", r"py:3: execute .* is an 'async def'"),
    (
        TRITON + "    def execute(self, requests):\n        yield []",
        r"py:3: execute .* one InferenceResponse per request",
    ),
    (TRITON + "    async def initialize(self, args): ...\n    execute = print", r"py:3: initialize .* 'async def'"),
    (TRITON + "    def predict(self, args): ...", r"py:2: .* has no method 'execute'; rename its 'predict'"),
    ("def predict(IN):\n    return IN", r"has neither class TritonPythonModel nor class Model; write for example"),
    (LITSERVE, r"py:3: class Api is an API of LitServe, .* turn its setup into __init__"),
    (
        "from litserve import LitAPI\nclass Model(LitAPI):\n    def predict(self, x): ...",
        r"py:2: class Model is an API of LitS",
    ),
    (
        "from mosec import Worker\nclass Infer(Worker):\n    def forward(self, x): ...",
        r"py:2: class Infer is a worker of Mosec",
    ),
    (
        "import fastapi\napp: fastapi.FastAPI = fastapi.FastAPI()",
        r"py:2: 'fastapi.FastAPI.*' is a web application; Penstock",
    ),
    (
        "from transformers import pipeline\npipe = pipeline('fill-mask')",
        r"py:2: 'pipeline.*' is a pipeline of transformers: cr",
    ),
]
WRONG: Final = [
    ('inputs = {"X": ("float32", [2])}', "inputs of class Model .*: 'X' has .* 'float32'; did you mean 'FP32'.$"),
    ('inputs = {"X": (np.float32, [2])}', "'X' has the datatype .*float32.*; did you mean 'FP32'"),
    ('inputs = {"X": ("TYPE_STRING", [2])}', "did you mean 'BYTES'"),
    ('inputs = {"X": ("text", [2])}', r"has the datatype 'text'; there are: BOOL"),
    ('inputs = {"X": ("FP32", 2)}', r"'X' has the dims 2; they are a list of sizes without the batch, such as \[4\]"),
    ('inputs = {"X": ("FP32", [None, 2])}', "'X' has None among its dims; a size is a number, or -1 for any"),
    ('inputs = {"X": ("FP32", ["n"])}', "'X' has 'n' among its dims"),
    ('inputs = {"X": "FP32"}', r"'X' must be a name with \(datatype, dims\), as in"),
    ('inputs = [("X", "FP32", [2])]', r"inputs of class Model of model 'm' must map names to \(datatype, dims\), as in"),
    ('inputs = {"X": ("FP32", [2])}; max_batch_size = "8"', "max_batch_size of class Model .* is '8'; it must be a whole number"),
    ('inputs = {"X": ("FP32", [2])}; max_batch_size = 8.0', "is 8.0; it must be a whole number"),
    ('inputs = {"Z": ("FP32", [2])}', r"py:3: predict takes X, and the model's inputs are Z: give .* or take \*\*inputs"),
    ('inputs = {"X": ("FP32", [2]), "Z": ("FP32", [2])}', "predict takes X, and the model's inputs are X, Z"),
]  # fmt: skip
FITTING: Final = ["self, X", "self, **inputs", "self, X, scale=2", "self, *, X", "self, Y=1, **rest"]
RETURNS: Final = {
    "none": (
        "",
        '{"OUT": None}',
        "returned output 'OUT' as NoneType; it must be an array|Expected a list",
    ),
    "ragged": (
        "",
        '{"OUT": [[1.0], [1.0, 2.0]]}',
        "returned output 'OUT' as rows of different lengths|Expected a list",
    ),
    "coroutine": (
        "async def later(): ...\n",
        "later()",
        "a coroutine, which is not supported yet: return what it gives",
    ),
    "generator": ("", "(x for x in [1])", "a generator, which is not supported yet: return the whole answer at once"),
    "neither": ("", "[]", "must return a dict of arrays|Number of InferenceResponse"),
}


@pytest.mark.parametrize(("code", "text"), NOT_YET, ids=[text[:60] for _, text in NOT_YET])
def test_it_is_refused_with_its_line_and_the_cure_and_the_check_says_the_same(
    tmp_path: Path, code: str, text: str
) -> None:
    write(tmp_path, "m", code)
    with pytest.raises(ConfigError, match=text) as refused:
        load(PythonBackend(), version_of(tmp_path, "m"))
    (checked,) = check_repositories([tmp_path], ["python"], PythonBackend().inspect)

    assert refused.value.message.isprintable()
    if "no method 'execute'" not in text:  # an instance may have it
        assert checked.status is Status.REFUSED
        assert refused.value.message in checked.reasons[0]


@pytest.mark.parametrize("form", ["execute(self, requests)", "predict(self, IN)"])
@pytest.mark.parametrize("kind", RETURNS)
def test_what_a_method_returns_is_refused_when_it_is_no_answer_yet(tmp_path: Path, form: str, kind: str) -> None:
    before, value, text = RETURNS[kind]
    name = "TritonPythonModel" if form.startswith("execute") else "Model"
    write(tmp_path, "m", f"\n{before}class {name}:\n    def {form}:\n        return {value}\n")
    instance = load(PythonBackend(), version_of(tmp_path, "m"))
    with pytest.raises(ModelFailed, match=text):
        run(instance, [request(IN=number(1))])
    instance.close()


def test_a_model_that_answers_several_times_is_told_at_the_call(tmp_path: Path) -> None:
    write(
        tmp_path,
        "m",
        "\nclass TritonPythonModel:\n    def execute(self, requests):\n        requests[0].get_response_sender()",
    )
    instance = load(PythonBackend(), version_of(tmp_path, "m"))
    with pytest.raises(Exception, match=r"get_response_sender: several responses .* are not supported yet; return one"):
        run(instance, [request(IN=number(1))])
    instance.close()


def test_a_model_that_asks_for_several_answers_itself_is_refused(tmp_path: Path) -> None:
    code = """
    class TritonPythonModel:
        @staticmethod
        def auto_complete_config(config):
            config.set_model_transaction_policy({"decoupled": True})
            return config

        def execute(self, requests): ...
    """
    write(tmp_path, "m", code)
    with pytest.raises(ConfigError, match=r"decoupled models are not supported yet: .* leave it out"):
        load(PythonBackend(), version_of(tmp_path, "m"))


@pytest.mark.parametrize(
    "source",
    [
        "from fastapi import FastAPI\napp = FastAPI()\nclass Model: ...",
        "from litserve import LitAPI\nfrom ours import Model",
        "import litserve\nModel = make()",
        "from ours import *\nfrom fastapi import FastAPI\napp = FastAPI()",
        "class LitAPI: ...\nclass Api(LitAPI): ...",
        "this is no Python",
        "",
    ],
)
def test_a_file_with_a_model_of_ours_may_use_what_it_likes(source: str) -> None:
    assert foreign_form(source, "model.py") == ""


@pytest.mark.parametrize(("stated", "said"), WRONG)
def test_what_a_class_states_wrongly_is_refused_at_load(tmp_path: Path, stated: str, said: str) -> None:
    rest = "outputs = {'OUT': ('FP32', [2])}\n    def predict(self, X): ..."
    source = f"import numpy as np\n\nclass Model:\n    {stated}\n    {rest}"
    write(tmp_path, "m", source, config="")

    with pytest.raises(ConfigError, match=said):
        load(PythonBackend(), version_of(tmp_path, "m"))


@pytest.mark.parametrize("parameters", FITTING)
def test_every_way_to_take_the_inputs_is_served(tmp_path: Path, parameters: str) -> None:
    outputs = "outputs = {'OUT': ('FP32', [1])}"
    source = f"class Model:\n    inputs = {{'X': ('FP32', [1])}}\n    {outputs}\n    def predict({parameters}): ..."
    write(tmp_path, "m", source, config="")

    load(PythonBackend(), version_of(tmp_path, "m"))


def test_what_nobody_asks_for_may_be_anything(tmp_path: Path) -> None:
    write(
        tmp_path,
        "m",
        SHORT + "    def predict(self, IN):\n        return {'OUT': IN, 'DEBUG': None, 'MORE': [[1], [1, 2]]}",
    )

    (answer,) = run(load(PythonBackend(), version_of(tmp_path, "m")), [request(IN=number(1))])

    assert answer["OUT"].tolist() == [[1]]
