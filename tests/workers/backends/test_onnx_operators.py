"""Each operator of ONNX's own conformance suite, served as a file: it answers as onnxruntime does, or is refused in a sentence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

from protocol.errors import ConfigError
from protocol.messages import InferRequest
from protocol.model_config import ModelConfig
from protocol.tensors import Array, from_array
from tests.workers.backends.models import load, run
from workers.backends.onnxruntime import OnnxBackend
from workers.repository.model_files import ModelFile
from workers.repository.scan import scan_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

RANDOM = {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomUniform"}


@pytest.fixture(scope="module")
def cases() -> list[TestCase]:
    """The first two of each operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    chosen: dict[str, list[TestCase]] = {}
    for case in found:
        if case.model is not None and case.data_sets and len(case.model.graph.node) == 1:
            chosen.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return [case for operator, each in chosen.items() if operator not in RANDOM for case in each[:2]]


def test_each_answers_as_onnxruntime_does_or_is_refused(cases: list[TestCase], tmp_path: Path) -> None:
    answered, problems = 0, []
    for case in cases:
        path = tmp_path / f"{case.name}.onnx"
        path.write_bytes(case.model.SerializeToString())
        try:
            own = direct(path, case)
        except Exception:  # onnxruntime lacks the operator, or some of its datatypes
            own = None
        try:
            instance: Any = load(OnnxBackend(), scan_file(ModelFile(path)))
        except ConfigError:
            continue
        if own is None:
            continue
        (given,) = run(instance, [asked(case, instance.config)])
        answered += 1
        problems += [f"{case.name}: {name}" for name, array in own.items() if not equal(given.get(name), array)]  # type: ignore[union-attr]

    assert problems == []
    assert answered > 250


def fed(case: TestCase) -> dict[str, Any]:
    """The inputs of the case's first example."""
    names = [value.name for value in case.model.graph.input]
    return {name: value for name, value in zip(names, case.data_sets[0][0], strict=False) if value is not None}


def direct(path: Path, case: TestCase) -> dict[str, Array]:
    """The tensors that onnxruntime returns."""
    options, runs = ort.SessionOptions(), ort.RunOptions()
    options.log_severity_level = runs.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs() if node.type.startswith("tensor(")]
    return dict(zip(names, session.run(names, fed(case), runs), strict=True))


def asked(case: TestCase, config: ModelConfig) -> InferRequest:
    """A request with the example; a scalar is one element."""
    tensors = []
    for name, value in fed(case).items():
        array = np.asarray(value)
        array = array.astype(object) if array.dtype.kind in "SU" else array
        spec = config.input(name)
        assert spec is not None
        tensors.append(from_array(name, array.reshape(1) if spec.reshape == () else array))
    return InferRequest("id", "m", "1", tuple(tensors))


def equal(given: Array | None, own: Array) -> bool:
    if given is None or given.size != own.size:
        return False
    if own.dtype == object:
        return [each.decode() for each in given.ravel()] == own.ravel().tolist()
    return np.array_equal(given.reshape(own.shape), own, equal_nan=own.dtype.kind == "f")
