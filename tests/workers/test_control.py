"""A worker under explicit control, and the records that it follows."""

from __future__ import annotations

from pathlib import Path

from protocol.control import DesiredModel, encode_desired
from protocol.messages import ControlProgress, ModelState, Outcome
from protocol.ports import OutRecord
from protocol.transport import Transport
from tests.workers.fleet import NAMES, Fleet, fleet, until, write_model
from workers.worker import Worker


async def write(transport: Transport, *records: tuple[bytes | None, bytes]) -> int:
    """Append records to the control topic; returns the offset of the last."""
    await transport.bus.ensure_topic(NAMES.control_topic, 1, compacted=True)
    offset = 0
    for key, value in records:
        offset = (await transport.bus.publish(NAMES.control_topic, [OutRecord(value, (), key)])).offset
    return offset


async def explicit(f: Fleet, tmp_path: Path) -> Worker:
    return await f.worker(model_control_mode="explicit", model_cache_dir=tmp_path / "cache")


def progress(worker: Worker, model: str) -> ControlProgress | None:
    assert worker.control is not None
    return next((entry for entry in worker.control.progress() if entry.model == model), None)


async def test_records_of_strangers_break_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    strange = [
        (b"model/m", b"junk"), (None, b"x"), (b"file/abc/x", b"1"), (b"file//0", b"1"), (b"\xff\xfe", b"1"),
        (b"file/" + b"a" * 64 + b"/99999999", b"z"),
        encode_desired(DesiredModel("m", True, replicas=-5, idle_after=-3.0)),
        encode_desired(DesiredModel("evil", True, "{}", {"../../x": "00"})),
        encode_desired(DesiredModel("torn", True, "{}", {"1/model.py": "ab"})),
    ]  # fmt: skip
    async with fleet(tmp_path / "models") as f:
        await write(await f.transport(), *strange)
        worker = await explicit(f, tmp_path)
        evil, torn = progress(worker, "evil"), progress(worker, "torn")
        assert evil is not None
        assert (evil.state, evil.outcome, evil.done) == (ModelState.UNAVAILABLE, Outcome.FAILED, True)
        assert "'../../x' must be relative" in evil.reason
        assert torn is not None
        assert "is not whole" in torn.reason
        assert worker.models.slots["m", "1"].state.value == "READY"
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()], "nothing half written stays"


async def test_a_worker_is_ready_once_it_has_caught_up(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    async with fleet(tmp_path / "models") as f:
        transport = await f.transport()
        offset = await write(transport, encode_desired(DesiredModel("m", True)))
        worker = await explicit(f, tmp_path)
        assert progress(worker, "m") == ControlProgress("m", offset, ModelState.READY, done=True)
        offset = await write(transport, encode_desired(DesiredModel("m", False)))
        await until(
            lambda: progress(worker, "m") == ControlProgress("m", offset, ModelState.UNAVAILABLE, "unloaded", True)
        )
        await write(transport, (b"model/m", b""))
        await until(lambda: progress(worker, "m") is None)
