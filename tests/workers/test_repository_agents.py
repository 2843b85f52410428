"""The checksum agent compares files before a load."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from protocol.messages import ModelState
from protocol.model_config.pbtxt import parse
from tests.workers.fleet import IDENTITY, fleet, values, write_model
from tests.workers.test_models import state
from workers.repository.agents import run_agents

AGENT = (
    IDENTITY + 'model_repository_agents { agents { name: "checksum" parameters { key: "MD5:1/data" value: "%s" } } }'
)
RIGHT, WRONG = hashlib.md5(b"weights").hexdigest(), hashlib.md5(b"other").hexdigest()  # Triton's agent has MD5


async def test_files_that_agree_are_loaded_and_others_are_not(tmp_path: Path) -> None:
    write_model(tmp_path, "m", AGENT % RIGHT.upper(), {"data": "weights"})
    write_model(tmp_path, "bad", AGENT % WRONG, {"data": "weights"})
    async with fleet(tmp_path) as f:
        await f.worker(exit_on_error=False)
        caller = await f.caller()

        assert values(await caller.ask(caller.request(1))) == [[1]]
        assert state(f, "bad").state is ModelState.UNAVAILABLE
        assert f"expect: {WRONG}, got: {RIGHT}" in state(f, "bad").reason


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'.*/1/data' cannot be read: No such file"):
        run_agents(parse(AGENT % RIGHT, "config.pbtxt", "m"), tmp_path)
