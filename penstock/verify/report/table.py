"""`python -m penstock.verify.report.table FILE.json …`: reports of several seeds as Markdown tables."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from penstock.verify.report.series import table

if __name__ == "__main__":
    for name in sys.argv[1:]:
        sys.stdout.write("\n".join([*table(orjson.loads(Path(name).read_bytes())), "", ""]))
