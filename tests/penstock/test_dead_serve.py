"""A poison request from crash to answer: dead-lettered by a real server, reproduced, fixed, sent again."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from penstock.client import Client
from protocol.errors import FleetError
from tests.integration.repositories import write_model
from tests.penstock.test_cli import penstock
from tests.penstock.test_serve import serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FRAGILE = """
    import ctypes
    import os

    class Model:
        inputs = {"X": ("FP32", [1])}
        outputs = {"Y": ("FP32", [1])}
        max_batch_size = 8

        def predict(self, X):
            if (X == 13).any() and not os.path.exists("%s"):
                ctypes.string_at(0)
            return {"Y": X * 2}
"""


def test_a_crasher_is_dead_lettered_reproduced_and_once_fixed_answered(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed"
    write_model(tmp_path / "models", "fragile", FRAGILE % fixed)
    flags = ("--model-repository", str(tmp_path / "models"), "--data-dir", str(tmp_path / "data"))
    data = ("--data-dir", str(tmp_path / "data"))
    first = serve(tmp_path, *flags)
    with Client(first.url) as client:
        assert client.infer("fragile", {"X": np.float32([[1]])}).outputs["Y"].tolist() == [[2]]
        with pytest.raises(FleetError) as failed:
            client.infer("fragile", {"X": np.float32([[13]])}, timeout=60)
        assert client.infer("fragile", {"X": np.float32([[2]])}).outputs["Y"].tolist() == [[4]]
    first.stop()
    listed = json.loads(penstock("dead", "list", *data, "--json").stdout)
    (letter,) = listed["letters"]
    again = penstock("dead", "reproduce", letter["id"], *data, "--model-repository", str(tmp_path / "models"))
    fixed.touch()
    gone = penstock("dead", "reproduce", letter["id"], *data, "--model-repository", str(tmp_path / "models"))
    sent = json.loads(penstock("dead", "redrive", *data, "--json").stdout)["redriven"][0]
    second = serve(tmp_path, *flags)
    answer = httpx.get(f"{second.url}{sent['url']}", headers={"prefer": "wait=30"}, timeout=40).json()
    second.stop()

    assert "it is in the dead letters" in failed.value.message
    assert (letter["reason"], letter["signal"], letter["attempts"]) == ("poison", "SIGSEGV", 3)
    assert (again.returncode, "crashed: the process was ended by SIGSEGV" in again.stdout) == (0, True), again.stderr
    assert "in predict" in again.stdout
    assert (gone.returncode, "succeeded" in gone.stdout) == (1, True), gone.stderr
    assert sent["id"] == f"{letter['id']}~r1"
    assert answer["outputs"][0]["data"] == [26.0]
