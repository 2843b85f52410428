from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import Code, ConfigError, ModelFailed
from protocol.messages import Failure
from tests.workers.backends.models import load, request, run, version_of
from workers.backends.python import PythonBackend
from workers.repository.model_files import ModelFile
from workers.repository.scan import scan_file

CONFIG = """
backend: "python" max_batch_size: 8
input [ { name: "IN" data_type: TYPE_FP32 dims: [1] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [1] } ]
parameters { key: "factor" value { string_value: "3" } }
"""
TRITON = """
    import json
    import triton_python_backend_utils as pb_utils

    class TritonPythonModel:
        def initialize(self, args):
            self.config = json.loads(args["model_config"])
            self.factor = float(self.config["parameters"]["factor"]["string_value"])
            self.name = args["model_name"] + args["model_version"]

        def execute(self, requests):
            responses = []
            for request in requests:
                values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
                if (values < 0).any():
                    error = pb_utils.TritonError("negative", pb_utils.TritonError.INVALID_ARG)
                    responses.append(pb_utils.InferenceResponse([], error))
                    continue
                kind = pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(self.config, "OUT")["data_type"])
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", (values * self.factor).astype(kind))]))
            return responses
"""


def write(root: Path, name: str, code: str, config: str = CONFIG) -> Path:
    (root / name / "1").mkdir(parents=True, exist_ok=True)
    (root / name / "1" / "model.py").write_text(textwrap.dedent(code))
    if config:
        (root / name / "config.pbtxt").write_text(config)
    return root / name / "1" / "model.py"


def number(value: float) -> np.ndarray:
    return np.float32([[value]])


def test_a_triton_model_runs_as_it_is_and_fails_only_the_bad_request_of_a_batch(tmp_path: Path) -> None:
    write(tmp_path, "m", TRITON)
    instance = load(PythonBackend(), version_of(tmp_path, "m"))

    good, bad, last = run(instance, [request(IN=number(2)), request(IN=number(-1)), request(IN=number(5))])

    assert (good["OUT"].tolist(), last["OUT"].tolist()) == ([[6.0]], [[15.0]])
    assert bad == Failure(Code.INVALID_ARGUMENT, "negative")


def test_auto_complete_config_fills_the_configuration(tmp_path: Path) -> None:
    completing = """
        @staticmethod
        def auto_complete_config(config):
            config.set_max_batch_size(4)
            config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [1]})
            config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [1]})
            config.set_dynamic_batching()
            return config
    """
    code = textwrap.dedent(TRITON) + textwrap.indent(textwrap.dedent(completing), "    ")
    write(tmp_path, "m", code, 'parameters { key: "factor" value { string_value: "3" } }')

    instance = load(PythonBackend(), version_of(tmp_path, "m"))

    assert run(instance, [request(IN=number(2))])[0]["OUT"].tolist() == [[6.0]]


def test_the_short_form_gets_stacked_arrays_and_needs_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "shout.py"
    path.write_text(
        textwrap.dedent(
            """
            import numpy as np

            class Model:
                inputs = {"TEXT": ("BYTES", [1])}
                outputs = {"LOUD": ("BYTES", [1]), "ROWS": ("INT64", [1])}

                def predict(self, TEXT):
                    loud = np.array([[row[0].upper()] for row in TEXT], dtype=object)
                    return {"LOUD": loud, "ROWS": np.full((len(TEXT), 1), len(TEXT))}
            """
        )
    )
    instance = load(PythonBackend(), scan_file(ModelFile(path)))

    answers = run(
        instance,
        [request(TEXT=np.array([[b"a"]], dtype=object)), request(TEXT=np.array([[b"b"], [b"c"]], dtype=object))],
    )

    assert [answer["LOUD"].tolist() for answer in answers] == [[[b"A"]], [[b"B"], [b"C"]]]
    assert [answer["ROWS"].tolist() for answer in answers] == [[[3]], [[3], [3]]]


def test_two_models_may_each_have_their_own_module_of_one_name(tmp_path: Path) -> None:
    code = """
        import helper
        import numpy as np

        class Model:
            def predict(self, IN):
                return {"OUT": IN * np.float32(helper.FACTOR)}
    """
    for name, factor in (("two", 2), ("ten", 10)):
        (write(tmp_path, name, code).parent / "helper.py").write_text(f"FACTOR = {factor}")

    instances = [load(PythonBackend(), version_of(tmp_path, name)) for name in ("two", "ten")]

    assert [run(instance, [request(IN=number(1))])[0]["OUT"].item() for instance in instances] == [2.0, 10.0]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("x = 1", "neither class TritonPythonModel nor class Model"),
        ("def broken(:", "SyntaxError"),
        ("import not_there.sub", "No module named 'not_there'.* pip install not_there, or put not_there.py beside the model"),
        ("open('weights.npy')", r"No such file.*Path\(__file__\).parent is the model's"),
        ("class TritonPythonModel:\n    pass", "has no method 'execute'"),
        (
            "class TritonPythonModel:\n    def initialize(self, args): raise RuntimeError('no weights')\n    execute = print",
            "initialize.*no weights",
        ),
        ("class Model:\n    def run(self): ...", "has no method 'predict'"),
        ("class Model:\n    inputs = {'IN': 5}\n    def predict(self, IN): ...", "'IN' must be a name with .datatype, dims."),
        ("import triton_python_backend_utils as p\nx = p.InferenceResponseSender", "InferenceResponseSender"),
    ],
)  # fmt: skip
def test_a_broken_model_is_refused_with_the_step_and_the_cause(tmp_path: Path, code: str, text: str) -> None:
    write(tmp_path, "m", code)

    with pytest.raises(ConfigError, match=f"(?s){text}"):
        load(PythonBackend(), version_of(tmp_path, "m"))


def test_the_short_form_says_how_to_state_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("class Model:\n    def predict(self, x): ...")

    with pytest.raises(ConfigError, match=r"does not state its inputs; write for example inputs = "):
        PythonBackend().inspect(scan_file(ModelFile(path)))


def test_a_wrong_number_of_responses_fails_the_batch_with_tritons_words(tmp_path: Path) -> None:
    write(tmp_path, "m", "class TritonPythonModel:\n    def execute(self, requests): return []")
    instance = load(PythonBackend(), version_of(tmp_path, "m"))

    with pytest.raises(ModelFailed, match="Number of InferenceResponse objects do not match"):
        run(instance, [request(IN=number(1))])


def test_an_output_that_the_model_left_out_is_left_out_of_the_answer(tmp_path: Path) -> None:
    code = """
        import triton_python_backend_utils as pb_utils

        class TritonPythonModel:
            def execute(self, requests):
                return [pb_utils.InferenceResponse([]) for _ in requests]

            def finalize(self):
                open(FILE, "w").close()
    """
    gone = tmp_path / "finalized"
    write(tmp_path, "m", code.replace("FILE", repr(str(gone))))
    instance = load(PythonBackend(), version_of(tmp_path, "m"))

    answers = run(instance, [request(("OUT",), IN=number(1)), request(IN=number(1))])
    instance.close()

    assert answers == [{}, {}]
    assert gone.exists()
