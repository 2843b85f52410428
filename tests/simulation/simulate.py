"""One schedule from its seed: a fleet, callers, faults; then no more faults, and everything has to settle.

python -m tests.simulation --seed 17            all events of schedule 17
python -m tests.simulation --count 3000         the schedules 0 to 2999
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from typing import Final

import structlog

from protocol.errors import FleetError
from tests.simulation.answers import wants_answer
from tests.simulation.clients import LONG, Clients
from tests.simulation.fleet import RESULT_TTL, TOPIC, Fleet, GatewayProcess
from tests.simulation.history import History
from tests.simulation.judge import is_only_pending, judge, judge_leftovers, judge_totals
from tests.simulation.kafka import SESSION, Kafka
from tests.simulation.letters import name_of
from tests.simulation.loop import PROCESS, Stuck, VirtualLoop
from tests.simulation.plan import WINDOW, Fault, plan, schedule
from tests.simulation.processes import Host
from tests.simulation.redis import Redis
from tests.simulation.weather import Network, Weather

REST: Final = 6 * SESSION + 20.0
"""Virtual seconds after the last fault in which all calls without a deadline must be answered and the lag must be zero."""
LEFT_ALONE: Final = 25.0
"""Additional seconds for each request that kills or hangs its instance until it is a dead letter."""
PROBES: Final = 4


@dataclasses.dataclass
class Report:
    """The result of a seed.

    Attributes:
        violations: one sentence each; none when all promises held.
        digest: of everything that happened; equal for equal seeds.
        events: everything that happened.
    """

    seed: int
    faults: list[Fault]
    violations: list[str]
    digest: str
    events: list[str]
    calls: int
    reruns: int
    steps: int
    seconds: float

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.violations)} promises broken", *self.violations, "faults:"]
        lines += [f"  {fault}" for fault in self.faults]
        lines.append(f"replay it with: python -m tests.simulation --seed {self.seed}")
        return "\n".join(lines)


def simulate(seed: int) -> Report:
    """Run the schedule of a seed. The same seed gives the same run, whatever ran before it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    state = random.getstate()
    random.seed(seed)  # tenacity's dice
    loop = VirtualLoop()
    asyncio.set_event_loop(None)
    try:
        return _run(seed, loop)
    finally:
        loop.close()
        random.setstate(state)
        structlog.reset_defaults()


def _run(seed: int, loop: VirtualLoop) -> Report:
    dice = random.Random(seed)
    faults = plan(dice)
    fleet = _fleet(loop, dice)
    clients = Clients(fleet)
    try:
        loop.run_until_complete(_live(fleet, clients, faults))
    except Stuck as stuck:
        fleet.history.broken("I11", str(stuck))
    _judge(fleet, clients)
    history = fleet.history
    return Report(
        seed, faults, [str(violation) for violation in history.violations], history.digest, history.events,
        len(clients.calls), sum(count - 1 for count in history.runs.values()), loop.steps, loop.now,
    )  # fmt: skip


def _fleet(loop: VirtualLoop, dice: random.Random) -> Fleet:
    weather = Weather(dice)
    kafka, redis = Kafka(loop, weather), Redis(loop, weather, RESULT_TTL)
    history = History(loop)
    kafka.on_commit, kafka.on_append, kafka.on_delete = history.committed, history.appended, history.deleted
    redis.on_start = history.began
    redis.on_finish, redis.on_fresh = history.finished, history.fresh
    redis.on_loss, redis.on_cancel, redis.on_release = history.lost, history.cancelled, history.released
    isolated, poison = dice.random() < 0.4, dice.choice((0.0, 0.06))
    return Fleet(loop, dice, weather, Network(loop, weather), kafka, redis, history, isolated, poison)


async def _live(fleet: Fleet, clients: Clients, faults: list[Fault]) -> None:
    dice = fleet.dice
    PROCESS.set(clients.process)
    fleet.announce()
    await asyncio.sleep(0.1)
    for n in range(2):
        GatewayProcess(fleet, f"g{n}")
    for n in range(dice.choice((1, 2, 2, 3))):
        Host(fleet, f"w{n}")
    happening = schedule(fleet, faults)
    for delay in sorted(dice.uniform(0, WINDOW) for _ in range(dice.choice((6, 12, 24)))):
        await asyncio.sleep(max(0.0, delay - fleet.loop.now))
        _one_more(fleet, clients)
    for task in happening:
        await task
    await _rest(fleet, clients)


def _one_more(fleet: Fleet, clients: Clients) -> None:
    """A caller calls, perhaps several at once."""
    dice = fleet.dice
    kind = dice.choice(("plain", "plain", "plain", "keyed", "keyed", "async", "cancel", "async-cancel", "producer"))
    if kind == "producer":
        clients.produce([clients.record() for _ in range(dice.choice((1, 2, 4)))])
    elif kind in ("keyed", "async") and dice.random() < 0.7:
        first = clients.make(kind)
        first.key = f"key-{first.name}"
        again = [
            clients.make(kind, key=first.key, value=first.value, bad=first.bad, principal=first.principal)
            for _ in range(dice.choice((0, 1, 2)))
        ]
        for call in (first, *again):
            clients.start(call)
    else:
        for _ in range(dice.choice((1, 1, 2, 5))):
            call = clients.make(kind)
            call.key = f"key-{call.name}" if kind == "keyed" else ""
            clients.start(call)


async def _rest(fleet: Fleet, clients: Clients) -> None:
    """The faults are over: everything must be answered and committed, and new calls must succeed."""
    fleet.weather.clear()
    fleet.history.note("the faults are over")
    rest = REST + LEFT_ALONE * len(fleet.history.letters.poison)
    end = fleet.loop.now + rest
    while fleet.loop.now < end and (_waiting(fleet, clients) or any(fleet.kafka.lag().values())):  # noqa: ASYNC110
        await asyncio.sleep(0.25)
    for call in _waiting(fleet, clients):
        fleet.history.broken("I11", f"{call} is not answered {rest:.0f} s after the last fault")
    for topic, lag in fleet.kafka.lag().items():
        if lag:
            fleet.history.broken("I11", f"{lag} records of {topic} are not committed {rest:.0f} s after the last fault")
    probes = [clients.make("probe", timeout=LONG, bad=0.0) for _ in range(PROBES)]
    for call in probes:
        clients.start(call)
    await asyncio.sleep(4 * SESSION)  # a zombie may just have returned, and the group is rebalancing
    for call in probes:
        if not call.done or any(isinstance(answer, FleetError) or answer.failure for answer in call.answers):
            fleet.history.broken("I11", f"a call after the last fault had no success: {call.answers}")
    end = fleet.loop.now + rest
    while fleet.loop.now < end and any(fleet.kafka.lag().values()):  # noqa: ASYNC110
        await asyncio.sleep(0.25)  # requests that may be pending for ever were published again
    if any(not is_only_pending(call, fleet) for call in clients.pending()):
        # Only calls whose answer was lost with the store's data are left: they end at their deadline.
        await asyncio.sleep(LONG + REST)


def _waiting(fleet: Fleet, clients: Clients) -> list[str]:
    """Calls that should have been answered by now."""
    lost = fleet.history.losses
    return [
        call.name
        for call in clients.pending()
        if not is_only_pending(call, fleet) and not (call.kind in ("plain", "keyed") and lost > call.losses)
    ]


def _judge(fleet: Fleet, clients: Clients) -> None:
    history = fleet.history
    for call in clients.calls:
        judge(call, fleet)
    topic = fleet.kafka.topics[TOPIC]
    for log in topic.logs:
        for record in log.slice(0, log.end):
            if not history.is_complete(record):
                history.broken(
                    "I1", f"{record.topic}/{record.partition}/{record.offset} ({name_of(record)}) has no end"
                )
            elif wants_answer(record) and not history.answers.has(name_of(record)):
                history.broken("I1", f"{name_of(record)} has no answer on its topic")
    history.judge_losses()
    judge_leftovers(fleet)
    judge_totals(fleet)
    for error in fleet.loop.errors:
        history.broken("no error goes unhandled", error)
