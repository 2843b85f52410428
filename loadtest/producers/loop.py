"""The limit of a batch run: `python -m loadtest.producers.loop FOLDER INPUT OUTPUT SIZE` reads the same file, calls the model in a
plain loop at one batch size, and writes the same lines. It prints {"rows": …, "seconds": …}; the seconds begin once the model is
loaded, as it is in a server.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loadtest.direct import Run, load
from loadtest.models import ALL
from protocol.tensors import NUMPY_DTYPE


def run(model: Run, dtypes: dict[str, Any], source: Path, target: Path, size: int) -> int:
    """Answer every line of `source` in `target`; returns their number."""
    line = 0
    with source.open("rb") as file, target.open("wb") as out:
        for rows in _batches(file, size):
            outputs = model({name: np.array([row[name] for row in rows], dtype) for name, dtype in dtypes.items()})
            out.writelines(
                orjson.dumps(
                    {"line": line + place + 1, "outputs": {name: values[place] for name, values in outputs.items()}},
                    option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
                )
                for place in range(len(rows))
            )
            line += len(rows)
    return line


def _batches(file: Iterator[bytes] | Any, size: int) -> Iterator[list[dict[str, Any]]]:
    while rows := [orjson.loads(line) for line in itertools.islice(file, size)]:
        yield rows


def main() -> None:
    """The command."""
    folder, source, target, size = sys.argv[1:]
    model = load(Path(folder))
    dtypes = {spec.name: NUMPY_DTYPE[spec.datatype] for spec in ALL[Path(folder).name].inputs}
    begin = time.perf_counter()
    rows = run(model, dtypes, Path(source), Path(target), int(size))
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
