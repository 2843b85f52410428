"""Collect a real data set: every paragraph of the documentation strings of this Python's standard library.

    python examples/docstrings/collect.py paragraphs.parquet [FOLDER …]

Needs `pip install penstock[parquet]`. The Parquet file has the columns `text`, `module` and `line`. Further folders, such as a
`site-packages`, are read too.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
SHORTEST = 40
"""Characters; shorter paragraphs say too little."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Paragraph(NamedTuple):
    """One paragraph and where it is from."""

    text: str
    module: str
    line: int


def paragraphs(library: Path = LIBRARY) -> Iterator[Paragraph]:
    """Every paragraph, each text once."""
    known: set[str] = set()
    for path in sorted(library.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(library).parts):
            for found in _of_file(path, ".".join(path.relative_to(library).with_suffix("").parts)):
                if len(found.text) >= SHORTEST and found.text not in known:
                    known.add(found.text)
                    yield found


def _of_file(path: Path, module: str) -> Iterator[Paragraph]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # a template or a test of the parser
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            for part in re.split(r"\n\s*\n", text):
                yield Paragraph(" ".join(part.split()), module, getattr(node, "lineno", 1))


def main() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = list(paragraphs())
    for folder in sys.argv[2:]:
        known = {paragraph.text for paragraph in found}
        found += [paragraph for paragraph in paragraphs(Path(folder)) if paragraph.text not in known]
    columns = {name: [getattr(each, name) for each in found] for name in Paragraph._fields}
    pq.write_table(pa.table(columns), sys.argv[1])
    print(f"{len(found):,} paragraphs of {len(set(columns['module'])):,} modules in {sys.argv[1]}")


if __name__ == "__main__":
    main()
