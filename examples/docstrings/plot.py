"""Draw throughput over time from the progress that `penstock batch submit --json` prints.

`penstock batch submit docstrings paragraphs.parquet -o vectors.parquet --json > progress.jsonl` writes it, and
`python examples/docstrings/plot.py progress.jsonl throughput.png` draws it.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def main() -> None:
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    points = [(line["seconds"], line["answered"]) for line in lines if "answered" in line]
    points = [(0.0, 0), *points]
    pairs = [(a, b) for a, b in itertools.pairwise(points) if b[0] > a[0]]
    rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.step([b[0] for _, b in pairs], rates, where="pre")
    axes.set(title=f"{points[-1][1]:,} rows in {points[-1][0]:.1f} s", xlabel="s", ylabel="rows/s")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(sys.argv[2], dpi=80)
    print(f"{sys.argv[2]}: {points[-1][1]:,} rows in {points[-1][0]:.1f} s")


if __name__ == "__main__":
    main()
