"""Models for the sentences of docs/python-models.md that its examples do not show, by name: configuration and code."""

from __future__ import annotations

from typing import Final

HEAD: Final = "class Model:\n    inputs = {'X': ('INT32', [1])}\n    outputs = {'Y': ('INT32', [1])}\n\n"
TEXTS: Final = HEAD.replace("'Y': ('INT32'", "'Y': ('BYTES'")
TENSORS: Final = (
    'max_batch_size: 8 input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] } ] '
    'output [ { name: "Y" data_type: TYPE_INT32 dims: [ 1 ] } ]'
)
IMPORTS: Final = "import os\nimport threading\n\nimport numpy as np\n\nprint('imported process')\n\n\n"

MODELS: Final = {
    "both": ("", HEAD + """\
    max_batch_size = 4

    def predict(self, X):
        return {"Y": [[1]]}


class TritonPythonModel:
    pass
"""),
    "codes": (TENSORS, """\
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        print("kind", args["model_instance_kind"], args["model_instance_device_id"])

    def execute(self, requests):
        codes = [int(request.inputs()[0].as_numpy()[0, 0]) for request in requests]
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("said so", code)) for code in codes]

    def finalize(self):
        print("finalized")
"""),
    "strange": ("", HEAD + """\
    def predict(self, X):
        number = int(X[0, 0])
        if number == 9:
            import os

            os._exit(1)
        return ({"Y": X, "MORE": X}, {"Y": [[1]]}, {"Y": X[:0]}, {"Z": X}, [X])[number]
"""),
    "texts": ("", "import numpy as np\n\n\n" + TEXTS + """\
    def predict(self, X):
        made = (np.array([[b"a\\0"]]), np.array([["\\u00e4"]]), np.array([[b"\\xff"]]), np.array([[7]], dtype=object))
        return {"Y": made[X[0, 0]]}
"""),
    "flat": ("", HEAD.replace("[1]", "[-1]") + """\
    max_batch_size = 0

    def predict(self, X):
        X[:] = len(X.shape)
        return {"Y": X}
"""),
    "smaller": ("max_batch_size: 2", HEAD + """\
    max_batch_size = 8

    def predict(self, X):
        return {"Y": X}
"""),
    "process": ("instance_group [ { count: 2 } ]", IMPORTS + TEXTS + """\
    def predict(self, X):
        names = ("PENSTOCK_API_KEY", "OMP_NUM_THREADS", "RAYON_NUM_THREADS")
        said = [str(os.environ.get(name)) for name in names]
        said += [threading.current_thread().name, str(os.getpid()), str(os.getppid())]
        return {"Y": np.array([[" ".join(said)]])}
"""),
    "thread": ('parameters { key: "instance_isolation" value { string_value: "thread" } }',
               "import os\n\nimport numpy as np\n\n\n" + HEAD + """\
    def predict(self, X):
        return {"Y": np.full(X.shape, os.getpid(), np.int32)}
"""),
    "unready": ("", "from .helper import READY\n\n\n" + HEAD + """\
    async def is_ready(self):
        return READY

    def predict(self, X):
        return {"Y": X}
"""),
    "gpu": ("instance_group [ { kind: KIND_GPU } ]", HEAD + "    def predict(self, X):\n        return {'Y': X}\n"),
    "large": ("", "import numpy as np\n\n\n" + HEAD.replace("'Y': ('INT32', [1]", "'Y': ('UINT8', [-1]") + """\
    def predict(self, X):
        return {"Y": np.zeros((1, int(X[0, 0])), np.uint8)}
"""),
    "kinds": ("", """\
import numpy as np


class Model:
    inputs = {"H": ("FP16", [1]), "F": ("BF16", [1]), "B": ("BOOL", [1]), "I": ("INT8", [1]), "S": ("BYTES", [1])}
    outputs = {"Y": ("BYTES", [1])}

    def predict(self, **inputs):
        said = " ".join(f"{name}={array.dtype}" for name, array in sorted(inputs.items()))
        return {"Y": [[f"{said} {type(inputs['S'][0, 0]).__name__}"]]}
"""),
}  # fmt: skip
