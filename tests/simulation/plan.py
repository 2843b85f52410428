"""The faults of one schedule with their times, from the seed alone."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable
from typing import Final

from tests.simulation.fleet import TOPIC, Fleet, GatewayProcess
from tests.simulation.instances import SimChild
from tests.simulation.kafka import SESSION
from tests.simulation.loop import OUTSIDE, Process
from tests.simulation.processes import Host

WINDOW: Final = 6.0
"""Seconds in which faults begin and calls are made."""


@dataclasses.dataclass(frozen=True)
class Fault:
    at: float
    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:.3f} s for {self.seconds:.3f} s"


def plan(dice: random.Random) -> list[Fault]:
    """The faults of one schedule, in the order of their times."""
    kinds = [kind for kind in FAULTS if kind not in LOSSES]
    chosen = [dice.choice(kinds) for _ in range(dice.choice((0, 1, 2, 3, 3, 4, 5, 6)))]
    if dice.random() < 0.3:
        chosen.append(dice.choice(LOSSES))
    faults = [Fault(dice.uniform(0.0, WINDOW), kind, dice.choice((0.05, 0.5, 1.5, 4.0))) for kind in chosen]
    return sorted(faults, key=lambda fault: fault.at)


# --- the faults ------------------------------------------------------------------------------------------------------


def _worker(fleet: Fleet) -> tuple[Host, Process] | None:
    hosts = [host for host in fleet.hosts.values() if host.worker is not None and host.worker.process.alive]
    if not hosts:
        return None
    host = fleet.dice.choice(hosts)
    assert host.worker is not None
    return host, host.worker.process


def _gateway(fleet: Fleet) -> GatewayProcess:
    return fleet.dice.choice(list(fleet.gateways.values()))


async def kill_worker(fleet: Fleet, seconds: float) -> None:
    if found := _worker(fleet):
        fleet.loop.kill(found[1])


async def kill_child(fleet: Fleet, seconds: float) -> None:
    """SIGKILL of a process that holds only an instance, as soon as one has a batch."""
    for _ in range(40):
        for host in fleet.hosts.values():
            worker = host.worker
            if worker is None or not worker.process.alive:
                continue
            for executor in worker.executors:
                if isinstance(executor, SimChild) and executor.busy:
                    fleet.loop.call_soon(executor.die, 9, context=worker.process.context)
                    return
        if not fleet.isolated:
            return
        await asyncio.sleep(0.05)


async def stop_worker(fleet: Fleet, seconds: float) -> None:
    """SIGSTOP for up to more than twice the session timeout, then SIGCONT: a zombie."""
    if found := _worker(fleet):
        await _pause(fleet, found[1], 2.2 * SESSION if seconds >= 1.5 else seconds)


async def _pause(fleet: Fleet, process: Process, seconds: float) -> None:
    process.paused = True
    fleet.history.taken_for_dead(process)
    await asyncio.sleep(seconds)
    fleet.loop.resume(process)


async def fail_machine(fleet: Fleet, seconds: float) -> None:
    if found := _worker(fleet):
        found[0].fail()
        await asyncio.sleep(seconds)
        found[0].start()


async def stop_machine(fleet: Fleet, seconds: float) -> None:
    if found := _worker(fleet):
        host, process = found
        host.process.paused = True
        await _pause(fleet, process, 2.2 * SESSION if seconds >= 1.5 else seconds)
        fleet.loop.resume(host.process)


async def roll_worker(fleet: Fleet, seconds: float) -> None:
    """A deployment: one drains and ends, and a new one starts."""
    if found := _worker(fleet):
        host, process = found
        if host.worker is not None and host.process.alive and not process.paused:
            fleet.loop.spawn(process, host.worker.drain())
            await host.worker.ended
            fleet.loop.kill(host.process)
            await asyncio.sleep(seconds)
            host.start()


async def join_worker(fleet: Fleet, seconds: float) -> None:
    Host(fleet, f"w{len(fleet.hosts)}")


async def evict_worker(fleet: Fleet, seconds: float) -> None:
    """LeaveGroup for a live worker."""
    coordinator = fleet.kafka.topics[TOPIC].coordinators.get(TOPIC)
    if coordinator is not None and (found := _worker(fleet)):
        fleet.history.taken_for_dead(found[1])
        coordinator.remove([found[0].name])


async def rebalance_storm(fleet: Fleet, seconds: float) -> None:
    """Members leave and join again and again, as fast as a group can follow."""
    for _ in range(6):
        await evict_worker(fleet, 0.0)
        await asyncio.sleep(fleet.dice.uniform(0.2, 1.2))


async def kill_gateway(fleet: Fleet, seconds: float) -> None:
    gateway = _gateway(fleet)
    fleet.loop.kill(gateway.process)
    await asyncio.sleep(seconds)
    if fleet.gateways[gateway.name] is gateway:
        GatewayProcess(fleet, gateway.name)


async def stop_gateway(fleet: Fleet, seconds: float) -> None:
    await _pause(fleet, _gateway(fleet).process, seconds)


async def cut_worker_from_kafka(fleet: Fleet, seconds: float) -> None:
    if found := _worker(fleet):
        await _cut(found[1], "kafka", 2.0 * seconds)


async def cut_worker_from_redis(fleet: Fleet, seconds: float) -> None:
    if found := _worker(fleet):
        await _cut(found[1], "redis", seconds)


async def cut_gateway_from_kafka(fleet: Fleet, seconds: float) -> None:
    await _cut(_gateway(fleet).process, "kafka", seconds)


async def cut_gateway_from_redis(fleet: Fleet, seconds: float) -> None:
    await _cut(_gateway(fleet).process, "redis", seconds)


async def _cut(process: Process, server: str, seconds: float) -> None:
    process.cut.add(server)
    await asyncio.sleep(seconds)
    process.cut.discard(server)


async def kafka_away(fleet: Fleet, seconds: float) -> None:
    fleet.weather.down.add("kafka")
    await asyncio.sleep(seconds)
    fleet.weather.down.discard("kafka")


async def redis_away(fleet: Fleet, seconds: float) -> None:
    fleet.weather.down.add("redis")
    await asyncio.sleep(seconds)
    fleet.weather.down.discard("redis")


async def redis_full(fleet: Fleet, seconds: float) -> None:
    fleet.weather.redis = "oom"
    await asyncio.sleep(seconds)
    fleet.weather.redis = "up"


async def redis_readonly(fleet: Fleet, seconds: float) -> None:
    fleet.weather.redis = "readonly"
    await asyncio.sleep(seconds)
    fleet.weather.redis = "up"


async def refuse_calls(fleet: Fleet, seconds: float) -> None:
    fleet.weather.refused = 0.2
    await asyncio.sleep(seconds)
    fleet.weather.refused = 0.0


async def lose_answers(fleet: Fleet, seconds: float) -> None:
    fleet.weather.lost = 0.2
    await asyncio.sleep(seconds)
    fleet.weather.lost = 0.0


async def late_records(fleet: Fleet, seconds: float) -> None:
    fleet.weather.late = 0.3
    await asyncio.sleep(seconds)
    fleet.weather.late = 0.0


async def doubled_records(fleet: Fleet, seconds: float) -> None:
    fleet.weather.doubled = 0.5
    await asyncio.sleep(seconds)
    fleet.weather.doubled = 0.0


async def lose_wakes(fleet: Fleet, seconds: float) -> None:
    fleet.weather.wakes_lost = 0.6
    await asyncio.sleep(seconds)
    fleet.weather.wakes_lost = 0.0


async def double_wakes(fleet: Fleet, seconds: float) -> None:
    fleet.weather.wakes_doubled = 0.5
    await asyncio.sleep(seconds)
    fleet.weather.wakes_doubled = 0.0


async def slow_network(fleet: Fleet, seconds: float) -> None:
    fleet.weather.slow = 40.0
    await asyncio.sleep(seconds)
    fleet.weather.slow = 1.0


async def restart_redis_empty(fleet: Fleet, seconds: float) -> None:
    fleet.weather.down.add("redis")
    await asyncio.sleep(seconds)
    fleet.redis.restart_empty()
    fleet.weather.down.discard("redis")


async def fail_redis_over(fleet: Fleet, seconds: float) -> None:
    """The replica becomes the primary without the last second of writes."""
    fleet.redis.stop_replicating()
    await asyncio.sleep(1.0)
    fleet.weather.down.add("redis")
    await asyncio.sleep(seconds)
    fleet.redis.fail_over()
    fleet.weather.down.discard("redis")


async def retain(fleet: Fleet, seconds: float) -> None:
    """Retention deletes records, read or not."""
    fleet.kafka.retain(TOPIC, fleet.dice.uniform(0.3, 1.0))


async def remake_topic(fleet: Fleet, seconds: float) -> None:
    """Deleted and created again, empty."""
    fleet.kafka.remake(TOPIC)


FAULTS: Final[dict[str, Callable[[Fleet, float], object]]] = {
    work.__name__: work
    for work in (
        kill_worker, kill_child, stop_worker, fail_machine, stop_machine, roll_worker, join_worker, evict_worker, rebalance_storm,
        kill_gateway,
        stop_gateway, cut_worker_from_kafka, cut_worker_from_redis, cut_gateway_from_kafka, cut_gateway_from_redis, kafka_away,
        redis_away, redis_full, redis_readonly, refuse_calls, lose_answers, late_records, doubled_records, lose_wakes,
        double_wakes, slow_network, restart_redis_empty, fail_redis_over, retain, remake_topic,
    )
}  # fmt: skip
LOSSES: Final = ("restart_redis_empty", "fail_redis_over", "retain", "remake_topic")


def schedule(fleet: Fleet, faults: list[Fault]) -> list[asyncio.Task[None]]:
    """Let them happen; returns when each began and ended as tasks."""

    async def happen(fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        fleet.history.note("fault", fault.kind, fault.seconds)
        await FAULTS[fault.kind](fleet, fault.seconds)  # type: ignore[misc]
        fleet.history.note("fault over", fault.kind)

    return [fleet.loop.create_task(happen(fault), context=OUTSIDE.copy()) for fault in faults]
