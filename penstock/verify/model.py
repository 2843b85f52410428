"""The model that the checker serves: its answers are a known function of the input, and it records its own executions."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

from penstock.verify.observe.history import Execution
from penstock.verify.plan.plan import DIES, MODELS, RAISES

FACTOR: Final = 2_654_435_761
OFFSETS: Final = {model: 97 + place for place, model in enumerate(MODELS)}
"""They make an answer of the other model a wrong answer."""

_CODE: Final = """
    import os
    import signal
    import time

    import numpy as np


    class Model:
        inputs = {"NUMBER": ("INT64", [1]), "MILLIS": ("INT64", [1]), "PAD": ("BYTES", [1])}
        outputs = {"ANSWER": ("INT64", [1]), "RUN": ("INT64", [1])}
        max_batch_size = 8

        def predict(self, NUMBER, MILLIS, PAD):
            at = time.monotonic()  # the same in all processes of a machine, even with a wrong wall clock
            runs = [int.from_bytes(os.urandom(7), "big") for _ in NUMBER]
            with open(f"%(account)s.{os.getpid()}", "a") as file:
                file.writelines(f"{number} {run} {at:.6f}\\n" for number, run in zip(NUMBER[:, 0].tolist(), runs))
            if (MILLIS == %(dies)d).any():
                os.kill(os.getpid(), signal.SIGKILL)
            if (MILLIS == %(raises)d).any():
                raise ValueError("poison, as planned")
            time.sleep(max(0, int(MILLIS.max())) / 1000)
            return {"ANSWER": NUMBER * %(factor)d + %(offset)d, "RUN": np.array(runs, dtype=np.int64)[:, None]}
"""


def right_answer(model: str, number: int) -> int:
    """The answer that the model must give."""
    return number * FACTOR + OFFSETS[model]


def write_models(repository: Path, account: Path) -> None:
    """Write the models, each in a folder of the repository; both record what they run in `account.<pid>`."""
    for model in MODELS:
        folder = repository / model / "1"
        folder.mkdir(parents=True)
        facts = {"account": account, "factor": FACTOR, "offset": OFFSETS[model], "dies": DIES, "raises": RAISES}
        code = textwrap.dedent(_CODE) % facts
        (folder / "model.py").write_text(code.lstrip())


def account_of(account: Path, pid: int) -> Path:
    """The file in which one process records what it runs."""
    return account.with_name(f"{account.name}.{pid}")


def pids(account: Path) -> list[int]:
    """Ids of the processes that ran the models."""
    return sorted(int(file.suffix[1:]) for file in account.parent.glob(f"{account.name}.*"))


def read_executions(account: Path, offset: float = 0.0) -> list[Execution]:
    """All executions so far. A line that was cut off by a kill is skipped.

    Args:
        account: as for `write_models`.
        offset: seconds that the store's clock is ahead of this machine's monotonic one.
    """
    runs = []
    for pid in pids(account):
        for line in account_of(account, pid).read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                number, run, at = line.split()
                runs.append(Execution(int(number), int(run), float(at) + offset, pid))
    return sorted(runs, key=lambda run: run.at)
