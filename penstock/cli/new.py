"""`penstock new`."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path

import click
import orjson

from protocol.errors import InvalidArgument
from protocol.naming import Names

_MODEL = '''
    """A model to start from: replace `predict`. Serve its repository: penstock serve --model-repository DIR"""

    import numpy as np


    class Model:
        """Adds two vectors. Arrays come stacked: their first dimension is the batch."""

        inputs = {"A": ("FP32", [4]), "B": ("FP32", [4])}
        outputs = {"SUM": ("FP32", [4])}
        max_batch_size = 32

        def predict(self, A: np.ndarray, B: np.ndarray) -> dict[str, np.ndarray]:
            return {"SUM": A + B}
'''
_CONFIG = """
    # Triton's format. Everything here may be left out: it is completed from model.py.
    name: {name}
    backend: "python"
    max_batch_size: 32
    input [
      {{ name: "A" data_type: TYPE_FP32 dims: [ 4 ] }},
      {{ name: "B" data_type: TYPE_FP32 dims: [ 4 ] }}
    ]
    output [ {{ name: "SUM" data_type: TYPE_FP32 dims: [ 4 ] }} ]

    # Wait at most 2 ms for other requests of a batch; a full batch runs at once.
    dynamic_batching {{ max_queue_delay_microseconds: 2000 }}
"""


@click.command()
@click.argument("name")
@click.option(
    "--model-repository",
    "repository",
    default="models",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write it into; created if it does not exist.",
)
def command(name: str, repository: Path) -> None:
    """Write a model folder NAME to start from: a Python model that works, and its configuration.

    penstock new mymodel && penstock serve --model-repository models
    """
    Names().infer_topic(name, "1")
    if "/" in name or name.startswith(".") or not name.isprintable():
        raise InvalidArgument(f"model name {name!r} must be usable as a folder's name")
    folder = repository / name
    if folder.exists():
        raise InvalidArgument(f"{folder} already exists; choose another name, or delete it first")
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(textwrap.dedent(_MODEL).lstrip(), encoding="utf-8")
    quoted = orjson.dumps(name).decode()  # protobuf's text format quotes strings as JSON does
    (folder / "config.pbtxt").write_text(textwrap.dedent(_CONFIG).lstrip().format(name=quoted), encoding="utf-8")
    line = shlex.join(["penstock", "serve", "--model-repository", str(repository)])
    print(f"{folder}/config.pbtxt\n{folder}/1/model.py\n\nnext: {line}")
