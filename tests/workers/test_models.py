import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Code, ConfigError
from protocol.heartbeat_codec import decode_announcement
from protocol.messages import Announcement, Heartbeat, ModelLoad, ModelState
from tests.workers.fleet import IDENTITY, NAMES, Fleet, fleet, until, values, write_model
from workers.lifecycle.slots import VersionSlot, plan_loads
from workers.lifecycle.states import State
from workers.repository.model_files import ModelFile

SLOW = IDENTITY + 'parameters { key: "execute_delay_ms" value { string_value: "50" } }'
BROKEN = IDENTITY.replace('"identity"', '"no-such-backend"')


def catalogue(f: Fleet) -> dict[tuple[str, str], list[Announcement]]:
    """Every announcement that was ever published, by model version; the broker compacts lazily."""
    found: dict[tuple[str, str], list[Announcement]] = {}
    log = f.broker.topics[NAMES.catalogue_topic].logs[0]
    for record in log.slice(0, 1000):
        entry = decode_announcement(record.value)
        found.setdefault((entry.model, entry.version), []).append(entry)
    return found


def state(f: Fleet, model: str, version: str = "1") -> Announcement:
    return catalogue(f)[model, version][-1]


async def test_a_loaded_version_is_announced_with_its_whole_configuration(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        await f.worker(partitions=3)
        entry = state(f, "m")
        assert (entry.state, entry.reason, entry.partitions) == (ModelState.READY, "", 3)
        assert entry.config["dynamic_batching"]["preferred_batch_size"] == [8]
        assert len(entry.digest) == 64


async def test_what_cannot_be_loaded_ends_the_worker_unless_told_otherwise(tmp_path: Path) -> None:
    write_model(tmp_path, "bad", BROKEN)
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        with pytest.raises(ConfigError, match=r"model 'bad' version 1 cannot be loaded: .*no-such-backend"):
            await f.worker()
    async with fleet(tmp_path) as f:
        worker = await f.worker(exit_on_error=False)
        entry = state(f, "bad")
        assert entry.state is ModelState.UNAVAILABLE
        assert "no-such-backend" in entry.reason
        assert any("no-such-backend" in problem for problem in await worker.readiness())
        caller = await f.caller()
        assert values(await caller.ask(caller.request(1))) == [[1]]


async def test_a_folder_that_cannot_be_read_is_announced_with_the_reason(tmp_path: Path) -> None:
    write_model(tmp_path, "m", "max_batch_size: banana")
    async with fleet(tmp_path) as f:
        await f.worker(exit_on_error=False)
        assert state(f, "m").state is ModelState.UNAVAILABLE
        assert "banana" in state(f, "m").reason


async def test_with_explicit_control_only_what_is_named_is_loaded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name)
    async with fleet(tmp_path) as f:
        worker = await f.worker(model_control_mode="explicit", load_model=("a",))
        assert set(worker.models.slots) == {("a", "1")}
        await worker.models.settle("never-there", {})
        assert {slot.state for slot in worker.models.slots.values()} == {State.READY}
        await worker.models.settle("a", {})
        assert not worker.models.slots
        assert (state(f, "a").state, state(f, "a").reason) == (ModelState.UNAVAILABLE, "unloaded")


async def test_a_model_that_is_named_and_not_there_ends_the_worker(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        with pytest.raises(ConfigError, match="failed to load 'x'"):
            await f.worker(model_control_mode="explicit", load_model=("x",))


async def test_a_single_file_is_served(tmp_path: Path) -> None:
    file = tmp_path / "adder.py"
    file.write_text(
        "import numpy as np\n"
        "class Model:\n"
        "    inputs = {'X': ('FP32', [-1])}\n"
        "    outputs = {'Y': ('FP32', [-1])}\n"
        "    def predict(self, X):\n"
        "        return {'Y': X + 1}\n"
    )
    (tmp_path / "models").mkdir()
    async with fleet(tmp_path / "models") as f:
        await f.worker(model_file=(ModelFile(file),))
        assert state(f, "adder").state is ModelState.READY


async def test_polling_follows_the_repository(tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    async with fleet(tmp_path) as f:
        worker = await f.worker(model_control_mode="poll", repository_poll_secs=3600.0)
        write_model(tmp_path, "b")
        (tmp_path / "a" / "2").mkdir()
        await worker.models.poll()
        assert set(worker.models.slots) == {("a", "2"), ("b", "1")}
        assert state(f, "a", "1").state is ModelState.UNAVAILABLE
        assert state(f, "a", "2").state is ModelState.READY
        for path in ((tmp_path / "b" / "config.pbtxt"), (tmp_path / "b" / "1")):
            path.unlink() if path.is_file() else path.rmdir()
        (tmp_path / "b").rmdir()
        await worker.models.poll()
        assert set(worker.models.slots) == {("a", "2")}


async def test_a_repository_that_goes_away_unloads_nothing(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    write_model(repository, "a")
    async with fleet(repository) as f:
        worker = await f.worker()
        repository.rename(tmp_path / "moved")
        await worker.models.poll()
        assert worker.models.slots["a", "1"].state is State.READY


async def test_while_its_files_change_a_version_serves_on(tmp_path: Path) -> None:
    write_model(tmp_path, "m", SLOW)
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        caller = await f.caller()
        futures = await caller.publish(*[caller.request(n) for n in range(5)])
        write_model(tmp_path, "m", IDENTITY)
        before = worker.models.slots["m", "1"].serving
        await worker.models.poll()
        after = worker.models.slots["m", "1"].serving
        assert after is not None
        assert before is not after
        replies = await asyncio.gather(*futures, *await caller.publish(caller.request(9)))
        assert values(replies) == [[0], [1], [2], [3], [4], [9]]
        assert after.loaded.version.config.parameters == {}


async def test_a_change_that_cannot_be_loaded_leaves_the_old_version_serving(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        write_model(tmp_path, "m", BROKEN)
        await worker.models.poll()
        assert worker.models.slots["m", "1"].state is State.READY
        caller = await f.caller()
        assert values(await caller.ask(caller.request(1))) == [[1]]
        write_model(tmp_path, "m", "max_batch_size: banana")
        await worker.models.poll()
        assert values(await caller.ask(caller.request(2))) == [[2]]


async def test_a_model_that_failed_is_tried_again_when_its_files_change(tmp_path: Path) -> None:
    write_model(tmp_path, "m", BROKEN)
    async with fleet(tmp_path) as f:
        worker = await f.worker(exit_on_error=False)
        await worker.models.poll()
        assert len(catalogue(f)["m", "1"]) == 1
        write_model(tmp_path, "m")
        await worker.models.poll()
        assert state(f, "m").state is ModelState.READY


async def test_unloading_serves_the_topic_to_its_end(tmp_path: Path) -> None:
    write_model(tmp_path, "m", SLOW)
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        caller = await f.caller()
        futures = await caller.publish(*[caller.request(n) for n in range(60)])
        await worker.models.settle("m", {})
        replies = await asyncio.gather(*futures)
        assert values(replies) == [[n] for n in range(60)]
        assert [entry.state for entry in catalogue(f)["m", "1"]][-1] is ModelState.UNAVAILABLE


async def test_unloading_refuses_what_is_left_after_its_grace(tmp_path: Path) -> None:
    write_model(tmp_path, "m", SLOW.replace("50", "300").replace("max_batch_size: 8", "max_batch_size: 1"))
    async with fleet(tmp_path) as f:
        worker = await f.worker(unload_grace=0.5)
        caller = await f.caller()
        futures = await caller.publish(*[caller.request(n) for n in range(20)])
        await worker.models.settle("m", {})
        replies = await asyncio.gather(*futures)
        refused = [reply.failure for reply in replies if reply.failure is not None]
        assert 0 < len(refused) < 20
        assert {failure.code for failure in refused} == {Code.UNAVAILABLE}
        assert all(failure.message == "model 'm' version 1 has been unloaded" for failure in refused)


async def test_a_version_that_another_worker_serves_is_not_announced_as_gone(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        first = await f.worker()
        second = await f.worker()
        await second.models.settle("m", {})
        assert state(f, "m").state is ModelState.READY
        await first.models.settle("m", {})
        await until(lambda: state(f, "m").state is ModelState.UNAVAILABLE)


async def test_workers_that_unload_at_the_same_time_leave_nothing_ready(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        workers = [await f.worker(heartbeat_interval=60.0) for _ in range(2)]
        await asyncio.gather(*[worker.models.settle("m", {}) for worker in workers])
        assert state(f, "m").state is ModelState.READY
        for worker in workers:
            await worker._say()
            await worker.models.announcer.look_again()
        assert (state(f, "m").state, state(f, "m").reason) == (ModelState.UNAVAILABLE, "unloaded")


async def test_a_catalogue_that_was_deleted_is_made_again_with_what_is_ready(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "n")
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        await worker.models.settle("n", {})
        await worker.models.announcer.renew()
        assert len(catalogue(f)["m", "1"]) == 1, "nothing was lost"
        del f.broker.topics[NAMES.catalogue_topic]
        await worker.models.announcer.renew()
        assert {key: entries[-1].state for key, entries in catalogue(f).items()} == {("m", "1"): ModelState.READY}


async def test_a_silent_worker_serves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        gone = Heartbeat("gone", "i", "h", 1, 1.0, (ModelLoad("m", "1", ModelState.READY),))
        await f.transports[0].directory.beat(gone)
        await worker.models.settle("m", {})
        assert state(f, "m").state is ModelState.UNAVAILABLE


async def test_warm_ups_run_before_a_version_is_ready(tmp_path: Path) -> None:
    warm = (
        IDENTITY
        + """
model_warmup [ { name: "w" batch_size: 2 inputs [
  { key: "X" value: { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } } ] } ]
"""
    )
    write_model(tmp_path, "m", warm)
    write_model(tmp_path, "bad", warm.replace("zero_data: true", 'input_data_file: "gone"'))
    async with fleet(tmp_path) as f:
        worker = await f.worker(exit_on_error=False)
        assert worker.models.slots["m", "1"].state is State.READY
        assert worker.models.slots["bad", "1"].state is State.UNAVAILABLE
        assert "warm-up" in state(f, "bad").reason


async def test_instances_get_their_names_and_count(tmp_path: Path) -> None:
    write_model(tmp_path, "m", IDENTITY + "instance_group [ { count: 3 kind: KIND_CPU } ]")
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        (serving,) = worker.models.serving()
        assert [executor.name for executor in serving.loaded.executors] == ["m_0_0", "m_0_1", "m_0_2"]
        assert serving.intake.joined.is_set()


keys = st.tuples(st.sampled_from("abc"), st.sampled_from("12"))
digests = st.sampled_from(["x", "y"])
slots = st.builds(VersionSlot, state=st.sampled_from(list(State)), digest=digests)


@given(st.dictionaries(keys, digests), st.dictionaries(keys, slots))
def test_a_plan_leads_to_what_is_wanted(
    wanted: dict[tuple[str, str], str], here: dict[tuple[str, str], VersionSlot]
) -> None:
    made = plan_loads(wanted, here)
    assert not set(made.load) & set(made.unload)
    assert set(made.load) <= set(wanted)
    assert not set(made.unload) & set(wanted)
    moving = {key for key, slot in here.items() if slot.state in (State.LOADING, State.UNLOADING)}
    assert not moving & {*made.load, *made.unload}
    after = {key: slot.digest for key, slot in here.items() if slot.state in (State.READY, State.UNAVAILABLE)}
    for key in made.unload:
        del after[key]
    after |= {key: wanted[key] for key in made.load}
    for key, digest in wanted.items():
        if key not in moving and not (key in here and here[key].state is State.UNLOADED):
            assert after[key] == digest
    assert set(after) <= set(wanted)
