"""Model repositories for tests of whole fleets."""

from __future__ import annotations

import textwrap
from pathlib import Path

ADD = """
    import os
    import time

    class Model:
        inputs = {"A": ("FP32", [4]), "B": ("FP32", [4])}
        outputs = {"SUM": ("FP32", [4])}
        max_batch_size = 16

        def predict(self, A, B):
            with open(f"%s.{os.getpid()}", "a") as file:
                file.writelines(f"{number:.0f}\\n" for number in A[:, 0])
            time.sleep(0.03)
            return {"SUM": A + B}
"""
"""Adds, after noting the first element of each row's A in a file of its process."""

COUNT = """
    import os
    import time

    class Model:
        inputs = {"NUMBER": ("INT64", [1])}
        outputs = {"NUMBER": ("INT64", [1])}
        max_batch_size = 1

        def predict(self, NUMBER):
            with open(f"%s.{os.getpid()}", "a") as file:
                file.write(f"{NUMBER[0, 0]}\\n")
            time.sleep(max(0, NUMBER[0, 0]) / 1000)
            return {"NUMBER": NUMBER}
"""
"""Takes as many milliseconds as its number says, after noting it in a file of its process."""

PLUS = """
    import time

    class Model:
        inputs = {"X": ("FP32", [1])}
        outputs = {"Y": ("FP32", [1])}
        max_batch_size = 8

        def predict(self, X):
            time.sleep(0.005)
            return {"Y": X + %d}
"""
"""Adds a number to X, in five milliseconds per batch."""


def write_model(repository: Path, name: str, code: str) -> None:
    """A Python model of one version."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(textwrap.dedent(code))


def executed(counter: Path) -> list[int]:
    """The numbers that a model has noted at the start of runs so far, in all its processes."""
    return [number for numbers in executed_by(counter).values() for number in numbers]


def executed_by(counter: Path) -> dict[str, list[int]]:
    """The same by process."""
    files = counter.parent.glob(f"{counter.name}.*")
    return {file.suffix: [int(line) for line in file.read_text().split()] for file in files}
