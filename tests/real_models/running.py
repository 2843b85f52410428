"""Runs every case: one server for the files that are served, one command for each that is refused."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from click.testing import CliRunner

from penstock.cli import group
from penstock.client import Client, InferResult
from protocol.tensors import from_array
from tests.integration.fleet import Process, wait_for
from tests.real_models.cases import Inputs, Refused, Served, numbers
from tests.real_models.table import REFUSED, SERVED

ROOT: Final = Path(__file__).parents[2]
PRINTED: Final = 10
"""Models for which `penstock serve` prints a line to try."""
AT_ONCE: Final = 4
"""Commands that run at the same time; each spends most of its time importing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a case showed.

    Attributes:
        problem: what went wrong; "" if nothing.
        takes: the inputs as V2's metadata has them, for the page.
        batches: whether its rows may share a run.
    """

    problem: str = ""
    takes: str = ""
    batches: bool = False


def run_all(packages: Path, folder: Path) -> dict[str, Outcome]:
    """Outcomes by `case.name` and `case.form`.

    Args:
        packages: see `packages.installed`.
        folder: for models that are generated, and for the log.
    """
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        refusals = {key(case): pool.submit(_refusal, case, packages) for case in REFUSED}
        groups = [SERVED[start : start + PRINTED] for start in range(0, len(SERVED), PRINTED)]
        served = [_serve(group, packages, folder, pool) for group in groups]
        return dict(itertools.chain(*(group.items() for group in served))) | {
            name: future.result() for name, future in refusals.items()
        }


def key(case: Served | Refused) -> str:
    """Different for every case."""
    return f"{case.name}, {case.form}"


def _refusal(case: Refused, packages: Path) -> Outcome:
    done = _penstock("serve", str(packages / case.file), "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    said = done.stderr
    missing = [part for part in (case.named, *case.cures) if part not in said]
    problem = f"it says nothing of {missing}: {said}" if missing else "" if done.returncode else "it was served"
    return Outcome(problem)


def _serve(
    cases: Sequence[Served], packages: Path, folder: Path, pool: concurrent.futures.Executor
) -> dict[str, Outcome]:
    """The outcomes of cases whose files one command serves."""
    paths = {case.name: _file(case, packages, folder) for case in cases}
    files = [f"{name}={path}" if path.stem != name else str(path) for name, path in paths.items()]
    process = Process("real", folder / f"{cases[0].name}.log", "serve", *files)
    try:
        printed = wait_for("all models", lambda: _printed(process, len(cases)), within=120)
        with Client(process.url) as client:
            answers = {case.name: _answers(client, case, paths[case.name]) for case in cases}
        made_up = {case.name: _made_up(case, process.url) for case in cases}
        tries = {case.name: pool.submit(_commands, case, printed[case.name], process, folder) for case in cases}
        log = process.log.read_text()
        return {
            key(case): _whole(answers[case.name], _warning(case, log), made_up[case.name], tries[case.name].result())
            for case in cases
        }
    finally:
        process.stop()


def _whole(answer: Outcome, *problems: str) -> Outcome:
    """The outcome with the first problem of all."""
    return dataclasses.replace(answer, problem=next(filter(None, (answer.problem, *problems)), ""))


def _file(case: Served, packages: Path, folder: Path) -> Path:
    if isinstance(case.file, str):
        return packages / case.file
    path = folder / f"{case.name}{case.suffix}"
    case.file(path)
    return path


def _printed(process: Process, models: int) -> dict[str, str] | None:
    """The lines to try, by model."""
    assert process.process.poll() is None, process.tail()
    found = dict(re.findall(r"^(.+) is served at .*; try:\n  (.+)$", process.log.read_text(), re.MULTILINE))
    return found if len(found) == models else None


def _answers(client: Client, case: Served, path: Path) -> Outcome:
    metadata = client.get(f"/v2/models/{case.name}")
    kinds = {entry["name"]: entry["datatype"] for entry in metadata["inputs"]}
    takes = ", ".join(f"{each['name']} {each['datatype']}{each['shape']}" for each in metadata["inputs"])
    batches = client.get(f"/v2/models/{case.name}/config")["max_batch_size"] > 0
    inputs = case.inputs(np.random.default_rng(3))
    tensors: dict[str, Any] = {
        name: from_array(name, array, "BF16") if kinds[name] == "BF16" else array for name, array in inputs.items()
    }
    problem = _difference(case, client.infer(case.name, tensors), path, inputs)
    if batches != case.batches:
        problem = f"it {'batches' if batches else 'does not batch'}"
    return Outcome(problem, takes, batches)


def _difference(case: Served, given: InferResult, path: Path, inputs: Inputs) -> str:
    """How the answer differs from the framework's own."""
    expected = case.direct(path, inputs)
    if set(expected) != set(given.outputs):
        return f"it answered {sorted(given.outputs)} and not {sorted(expected)}"
    for name, own in expected.items():
        array = numbers(given.outputs[name], given.datatypes[name])
        right = own.reshape(array.shape)
        if array.dtype == object or case.tolerance == 0:
            if not np.array_equal(array, right, equal_nan=array.dtype.kind == "f"):
                return f"output {name} differs"
        elif (worst := float(np.abs(array - right).max())) > case.tolerance:
            return f"output {name} differs by {worst:.2g}"
    return ""


def _warning(case: Served, log: str) -> str:
    """What is wrong with what the log says of the model."""
    warnings = [line for line in log.splitlines() if "[warning" in line and f"model={case.name} " in f"{line} "]
    if bool(warnings) != bool(case.warned) or not all(case.warned in line for line in warnings):
        return f"it is warned of with {warnings}"
    return ""


def _commands(case: Served, line: str, process: Process, folder: Path) -> str:
    """What is wrong with the printed line."""
    done = _shell(line, folder)
    if done.returncode or '"error"' in done.stdout:
        return f"{line} says: {done.stdout}{done.stderr}"
    return ""


def _made_up(case: Served, url: str) -> str:
    """What is wrong with random inputs."""
    done = CliRunner().invoke(group, ["infer", case.name, "--random", "2", "--url", url])
    return f"infer --random says: {done.exception or done.output}" if done.exit_code else ""


def _penstock(*words: str) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "-m", "penstock", *words])


def _shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line in a shell whose `penstock` is ours."""
    shim = folder / "bin" / "penstock"
    if not shim.exists():
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m penstock "$@"\n')
        shim.chmod(0o755)
    return _run(["bash", "-c", line], PATH=f"{shim.parent}:{os.environ['PATH']}")


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=plain | {"PYTHONPATH": str(ROOT)} | environment,
    )
