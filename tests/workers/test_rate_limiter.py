"""Shared resources of instances: who runs next, and that batches really wait."""

from __future__ import annotations

import heapq
import itertools
import random
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.messages import ModelState
from protocol.model_config import RateLimiter, Resource
from tests.workers.children import EXIT, OBEDIENT
from tests.workers.fleet import IDENTITY, fleet, values, write_model
from tests.workers.test_models import state
from workers.instances.limited import LimitedChild, LimitedThread
from workers.instances.rate_limiter import EVERYWHERE, Contender, Pool, ResourceTurns, contender, parse_resources

R: Pool = ("R", EVERYWHERE)


def limits(priority: int = 0, **counts: int) -> RateLimiter:
    return RateLimiter(tuple(Resource(name, count, everywhere=True) for name, count in counts.items()), priority)


def simulate(turns: ResourceTurns, members: list[Contender], seconds: dict[int, float], until: float) -> list[int]:
    """Every member always has more to run; returns who started, in order. Checks the amounts after each step."""
    started: list[int] = []
    running: list[tuple[float, int]] = []

    def take(granted: list[Contender], now: float) -> None:
        for member in granted:
            index = members.index(member)
            started.append(index)
            heapq.heappush(running, (now + seconds[index], index))
        for pool in {pool for member in members for pool in member.needs}:
            assert turns.free(pool) >= 0

    for member in members:
        take(turns.begin(member), 0.0)
    while running and running[0][0] < until:
        now, index = heapq.heappop(running)
        take(turns.end(members[index], more=True), now)
    return started


@pytest.mark.parametrize("priority", [1, 2, 3, 10])
def test_priority_p_gets_one_run_for_p_of_priority_1(priority: int) -> None:
    turns = ResourceTurns()
    members = [contender(limits(1, R=1), None), contender(limits(priority, R=1), None)]
    turns.admit(members, "m")
    started = simulate(turns, members, {0: 1.0, 1: 1.0}, 2200.0)
    ones, others = started.count(0), started.count(1)
    assert ones / others == pytest.approx(priority, rel=0.05)


def test_an_instance_that_was_idle_saves_nothing_up() -> None:
    turns = ResourceTurns()
    busy, late = contender(limits(R=1), None), contender(limits(R=1), None)
    turns.admit([busy, late], "m")
    turns.begin(busy)
    for _ in range(1000):
        turns.end(busy, more=True)
    order = []
    turns.begin(late)
    running = busy
    for _ in range(10):
        (running,) = turns.end(running, more=True)
        order.append(running is late)
    assert order.count(True) == 5


def test_a_large_need_is_not_starved_by_small_ones() -> None:
    turns = ResourceTurns()
    members = [contender(limits(R=1), None) for _ in range(4)] + [contender(limits(R=4), None)]
    turns.admit(members, "m")
    started = simulate(turns, members, dict.fromkeys(range(4), 1.0) | {4: 0.7}, 200.0)
    assert started.count(4) > 20


def test_one_that_needs_nothing_of_what_others_wait_for_passes_them() -> None:
    turns = ResourceTurns()
    first, second, other = (contender(limits(**{name: 1}), None) for name in "RRS")
    turns.admit([first, second, other], "m")
    assert turns.begin(first) == [first]
    assert turns.begin(second) == []
    assert turns.begin(other) == [other]
    assert turns.remove(first) == [second]


needs = st.dictionaries(st.sampled_from("RST"), st.integers(1, 4), max_size=3)


@given(st.lists(st.tuples(needs, st.integers(0, 5)), min_size=1, max_size=6), st.integers(0, 2**32))
def test_amounts_are_never_exceeded_and_nobody_starves(kinds: list[tuple[dict[str, int], int]], seed: int) -> None:
    turns = ResourceTurns()
    members = [contender(limits(priority, **counts), None) for counts, priority in kinds]
    turns.admit(members, "m")
    chance = random.Random(seed)
    seconds = {index: chance.uniform(0.5, 2.0) for index in range(len(members))}
    started = simulate(turns, members, seconds, 200.0)
    assert set(started) == set(range(len(members)))
    for member in members:
        turns.remove(member)
    assert all(turns.free((name, EVERYWHERE)) == 0 for name in "RST")


def test_devices_have_their_own_and_global_resources_are_shared() -> None:
    limiter = RateLimiter((Resource("D", 1), Resource("G", 1, everywhere=True)), 0)
    assert contender(limiter, 3).needs == {("D", 3): 1, ("G", EVERYWHERE): 1}
    assert contender(limiter, None).needs == {("D", 0): 1, ("G", EVERYWHERE): 1}
    assert contender(None, None).needs == {}
    turns = ResourceTurns(parse_resources(["D:2", "D:5:1"]))
    assert [turns.amount(("D", device)) for device in (0, 1)] == [2, 5]


def test_a_need_that_can_never_be_met_is_refused() -> None:
    turns = ResourceTurns(parse_resources(["R:3"]))
    with pytest.raises(
        ConfigError, match=r"Resource count for 'R' is limited to 3 .* the minimum required count is 4 for m"
    ):
        turns.admit([contender(limits(R=4), None)], "m")


@pytest.mark.parametrize(
    "text", ["", "R", "R:", "R:x", ":1", "R:1:", "R:-1", "R:1:2:3", "R:99999999999", "R:4294967296"]
)
def test_a_wrong_resource_is_named(text: str) -> None:
    if text == "R:1:":
        assert parse_resources([text]) == {("R", EVERYWHERE): 1}
        return
    with pytest.raises(ConfigError, match="rate_limit_resource"):
        parse_resources([text])


LIMITED = (
    IDENTITY
    + """
instance_group [ { count: 2 rate_limiter { resources [ { name: "R" count: 1 } ] } } ]
parameters { key: "execute_delay_ms" value { string_value: "30" } }
"""
)


@pytest.mark.parametrize(("limit", "overlap"), [("execution_count", False), ("off", True)])
async def test_two_instances_take_turns_on_one_resource(tmp_path: Path, limit: str, overlap: bool) -> None:
    write_model(tmp_path, "m", LIMITED.replace("max_batch_size: 8", "max_batch_size: 1"))
    async with fleet(tmp_path) as f:
        worker = await f.worker(rate_limit=limit)
        caller = await f.caller()
        replies = await caller.ask(*[caller.request(number) for number in range(6)])
        (serving,) = worker.models.serving()
        assert isinstance(serving.loaded.executors[0], LimitedThread) is not overlap
    runs = sorted((reply.timing.compute_start, reply.timing.compute_end) for reply in replies)

    assert values(replies) == [[number] for number in range(6)]
    assert any(second[0] < first[1] for first, second in itertools.pairwise(runs)) is overlap


async def test_models_share_the_resources_of_their_worker_also_in_processes(tmp_path: Path) -> None:
    code = "import time\nclass Model:\n    def predict(self, X):\n        time.sleep(0.03)\n        return {'Y': X}\n"
    config = (
        LIMITED.replace('"identity"', '"python"')
        .replace("count: 2", "count: 1")
        .replace("max_batch_size: 8", "max_batch_size: 1")
    )
    write_model(tmp_path, "m", config, {"model.py": code})
    write_model(tmp_path, "n", LIMITED.replace("count: 2", "count: 1"))
    async with fleet(tmp_path) as f:
        await f.worker(rate_limit="execution_count", rate_limit_resource=("R:1",))
        caller = await f.caller()
        futures = [await caller.publish(*[caller.request(1, model=model) for _ in range(3)]) for model in "mn"]
        replies = [await future for each in futures for future in each]
    runs = sorted((reply.timing.compute_start, reply.timing.compute_end) for reply in replies)

    assert all(second[0] >= first[1] - 0.001 for first, second in itertools.pairwise(runs) if first != second)


async def test_too_little_of_a_resource_fails_the_load(tmp_path: Path) -> None:
    write_model(tmp_path, "m", LIMITED.replace("count: 1 }", "count: 2 }"))
    async with fleet(tmp_path) as f:
        await f.worker(exit_on_error=False, rate_limit="execution_count", rate_limit_resource=("R:1",))
        assert state(f, "m").state is ModelState.UNAVAILABLE
        assert "Resource count for 'R' is limited to 1" in state(f, "m").reason


async def test_a_process_that_dies_gives_its_resources_back(tmp_path: Path) -> None:
    config = LIMITED.replace('"identity"', '"python"').replace("max_batch_size: 8", "max_batch_size: 1")
    write_model(tmp_path, "m", config, {"model.py": textwrap.dedent(OBEDIENT)})
    async with fleet(tmp_path) as f:
        worker = await f.worker(rate_limit="execution_count", max_attempts=1)
        caller = await f.caller()
        replies = await caller.ask(caller.request(EXIT), *[caller.request(number) for number in range(4)])
        (serving,) = worker.models.serving()
        assert isinstance(serving.loaded.executors[0], LimitedChild)

    assert replies[0].failure is not None
    assert values(replies[1:]) == [[1], [2], [3], [4]]


async def test_an_unloaded_model_leaves_its_resources_to_others(tmp_path: Path) -> None:
    write_model(tmp_path, "m", LIMITED)
    write_model(tmp_path, "n", LIMITED)
    async with fleet(tmp_path) as f:
        worker = await f.worker(rate_limit="execution_count", model_control_mode="explicit", load_model=("*",))
        caller = await f.caller()
        await caller.ask(caller.request(1), caller.request(2, model="n"))
        await worker.models.settle("m", {})
        assert values(await caller.ask(caller.request(3, model="n"))) == [[3]]
