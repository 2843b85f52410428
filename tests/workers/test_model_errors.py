"""Exceptions of models: one record in the log, with the author's frames first; the callers beside it are answered."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from protocol.errors import Code
from tests.workers.fleet import fleet, values, write_model

CONFIG = """
backend: "python" max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 200000 }
parameters { key: "instance_isolation" value { string_value: "%s" } }
"""
CODE = """
    def check(X):
        if (X == 13).any():
            raise ARISES("thirteen")

    class Model:
        def predict(self, X):
            check(X)
            X += 1
            return {"Y": X}
"""


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt"])
async def test_what_a_model_raises_is_one_error_record_with_its_own_frames_first(
    tmp_path: Path, kind: str, isolation: str
) -> None:
    write_model(tmp_path, "m", CONFIG % isolation, {"model.py": textwrap.dedent(CODE).replace("ARISES", kind)})
    with capture_logs() as logs:
        async with fleet(tmp_path) as f:
            await f.worker()
            caller = await f.caller()
            numbers = (1.0, 13.0, 2.0, 3.0)
            replies = await caller.ask(*[caller.request(number) for number in numbers], partition=0)

    assert [index for index, reply in enumerate(replies) if reply.failure is not None] == [1]
    assert values([replies[0], *replies[2:]]) == [[2], [3], [4]]  # as if the culprit had not run with them
    failure = replies[1].failure
    assert failure is not None
    assert failure.code is Code.MODEL_FAILED
    text = "exited with code 1: thirteen" if kind == "SystemExit" else "thirteen"
    assert f"{kind}: {text}\n\nAt:\n  {tmp_path}/m/1/model.py(4): check\n" in failure.message
    (record,) = [line for line in logs if line["log_level"] == "error"]
    assert record["event"] == "batch failed"
    lines = record["exception"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{tmp_path}/m/1/model.py", line 8, in predict'
    assert lines[-1] == f"{kind}: thirteen"
    assert not [line for line in logs if "Traceback" in line["event"] or "thirteen" in line["event"]]
