"""Find the paragraphs nearest to a question, with the vectors that `penstock batch submit` wrote.

    python examples/docstrings/nearest.py paragraphs.parquet vectors.parquet "remove a folder and all files in it"

The question becomes a vector by one interactive call to the same model.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import pyarrow.parquet as pq

from penstock import Client

SHOWN = 5


def main() -> None:
    paragraphs, vectors = pq.read_table(sys.argv[1]), pq.read_table(sys.argv[2])
    with Client(os.environ.get("PENSTOCK_URL", "localhost:8000")) as client:
        answer = client.infer("docstrings", {"text": np.array([[sys.argv[3]]], dtype=object)})
    known = np.stack(vectors["vector"].to_numpy(zero_copy_only=False))
    closeness = known @ answer.outputs["vector"][0]
    for place in np.argsort(-closeness)[:SHOWN]:
        row = paragraphs.slice(int(vectors["line"][int(place)].as_py()) - 1, 1).to_pylist()[0]
        print(f"{closeness[place]:.2f}  {row['module']}:{row['line']}  {row['text'][:90]}")


if __name__ == "__main__":
    main()
