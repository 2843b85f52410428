"""Many models: what they cost while nobody calls them, how long they take to be ready, and whether a call costs more beside them.

Three measurements on a real broker and a real Redis, each of a fleet of its own:

- `members`: one worker with so many idle models: CPU and memory of each process; it is a member of a group for each of them;
- `fleet`: one gateway and four workers that start at once, each with its part of the models: time until all are ready, then CPU,
  memory, and what a call costs the gateway;
- `registered`: what a call of one model costs a gateway that knows so many, of which only that one is loaded. The others are
  announcements in the catalogue, as workers leave them that are scaled to zero.

The models return their input and have no file, so that the queue's own cost is measured. Topics have one partition.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from loadtest import machine, payloads, wrk
from loadtest.payloads import InputSpec, Pool
from loadtest.processes import Meter, ServerProcess, cores
from loadtest.systems import System, ask, free_port, wait_for_answer
from loadtest.tables import table
from protocol.errors import Unavailable
from protocol.heartbeat_codec import encode_announcement
from protocol.messages import Announcement, ModelState
from protocol.model_config.pbtxt import parse
from protocol.naming import Names
from protocol.ports import OutRecord
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings

WORKERS: Final = 4
SETTLE: Final = 6.0
"""Seconds between the last model's start and the measurement of idleness."""
READY_WITHIN: Final = 180.0
CALLERS: Final = 16
PUBLISHED: Final = 200
"""Announcements of one call."""
_INPUTS: Final = (InputSpec("X", "FP32", (1, 4)),)
_CONFIG: Final = """backend: "identity"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] } ]
dynamic_batching { }
"""


@dataclasses.dataclass(frozen=True, slots=True)
class ManyPoint:
    """One point.

    Attributes:
        kind: "members", "fleet" or "registered".
        models: loaded, or with "registered" known.
        workers: of the fleet.
        ready_s: from the start of the workers until the gateway had all models ready; 0 if not measured.
        idle_share: by process, CPU seconds per second while nobody calls.
        memory_mib: by process, resident.
        call_us: CPU microseconds of the gateway for a call, the median of the rounds; 0 if not measured.
        rate: calls per second, of all callers, in the median round.
        errors: calls without a right answer.
    """

    kind: str
    models: int
    workers: int
    ready_s: float = 0.0
    idle_share: dict[str, float] = dataclasses.field(default_factory=dict)
    memory_mib: dict[str, float] = dataclasses.field(default_factory=dict)
    call_us: float = 0.0
    rate: float = 0.0
    errors: int = 0

    @property
    def place(self) -> tuple[str, int]:
        """A later point of the same place replaces it."""
        return self.kind, self.models


def names_of(count: int) -> list[str]:
    """Models by name."""
    return [f"many-{number:04}" for number in range(count)]


def write_models(folder: Path, names: Sequence[str]) -> Path:
    """A repository of models that return their input."""
    for name in names:
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(_CONFIG)
    return folder


@contextlib.contextmanager
def fleet(repositories: Sequence[Path], first: str, pool: Pool) -> Iterator[tuple[System, float]]:
    """A gateway, and a worker for each repository; once the first model answers. With the time at which the workers were started.

    Raises:
        Unavailable: a server did not start.
    """
    from infra.local.servers import servers

    with contextlib.ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-many-")))
        backing = stack.enter_context(servers(data))
        prefix = f"many-{secrets.token_hex(4)}"
        transport = ["--kafka", backing.kafka, "--redis", backing.redis, "--prefix", prefix]
        port = free_port()
        line = ["-m", "penstock", "gateway", *transport, "--http-port", str(port), "--grpc-port", "off"]
        processes = {"gateway": ServerProcess([*line, "--metrics-port", "0"], None)}
        stack.callback(processes["gateway"].stop)
        began = time.perf_counter()
        for number, repository in enumerate(repositories):
            line = ["-m", "penstock", "worker", "--model-repository", str(repository), "--partitions", "1", *transport]
            worker = ServerProcess([*line, "--metrics-port", "0", "--drain-grace", "5"], None)
            processes[f"worker {number + 1}"] = worker
            stack.callback(worker.stop)
        roots = {name: process.pid for name, process in processes.items()}
        roots |= {"kafka": backing.broker.pid} if backing.broker else {}
        roots |= {"redis": backing.store.pid} if backing.store else {}
        system = System("fleet", port, Meter(roots), 0.0, backing.kafka, backing.redis, prefix)
        wait_for_answer(system.address(first), pool, processes)
        yield system, began


def _pool() -> Pool:
    return payloads.build(_INPUTS, 64, reference=lambda arrays: {"Y": arrays["X"]})


# --- measurements -----------------------------------------------------------------------------------------------------


def loaded(kind: str, count: int, seconds: float, say: Callable[[str], None]) -> ManyPoint:
    """`members` or `fleet` with so many models.

    Args:
        seconds: of idleness, and of calls.

    Raises:
        FleetError: a server does not start, or not all models are ready in time.
    """
    names, workers = names_of(count), WORKERS if kind == "fleet" else 1
    with tempfile.TemporaryDirectory(prefix="penstock-models-") as place:
        parts = [write_models(Path(place) / str(number), names[number::workers]) for number in range(workers)]
        with fleet(parts, names[0], _pool()) as (system, began):
            _wait_for_models(system, count, READY_WITHIN)
            point = ManyPoint(kind, count, workers, time.perf_counter() - began)
            say(f"{kind}: {count} models on {workers} workers ready after {point.ready_s:.1f} s")
            time.sleep(SETTLE)
            with system.meter.window() as spent:
                time.sleep(seconds)
            shares = {name: cpu / seconds for name, cpu in spent.items()}
            point = dataclasses.replace(point, idle_share=shares, memory_mib=system.meter.memory_mib())
            if kind == "fleet":
                point = _with_calls(point, [_called(system, names[0], seconds / 3) for _ in range(3)])
            say(f"  idle: {', '.join(f'{name} {share:.1%}' for name, share in shares.items())}; {point.call_us:.0f} µs")
            return point


def registered(counts: Sequence[int], rounds: int, seconds: float, say: Callable[[str], None]) -> list[ManyPoint]:
    """A call's cost at each of these numbers of known models, in alternated rounds on one fleet.

    Raises:
        FleetError: a server does not start.
    """
    calls: dict[int, list[tuple[float, float, int]]] = {count: [] for count in counts}
    memory: dict[int, dict[str, float]] = {}
    (name,) = names_of(1)
    with tempfile.TemporaryDirectory(prefix="penstock-models-") as place:
        repository = write_models(Path(place), [name])
        with fleet([repository], name, _pool()) as (system, _):
            _called(system, name, seconds)  # the broker's first calls are slow
            known = 1
            for number in range(rounds):
                for count in counts if number % 2 == 0 else list(reversed(counts)):
                    asyncio.run(_register(system, known, count))
                    known = count
                    _wait_for_models(system, count, 60.0)
                    calls[count].append(_called(system, name, seconds))
                    memory[count] = system.meter.memory_mib()
                    say(f"registered: {count} models: {calls[count][-1][0]:.1f} µs of the gateway per call")
    return [_with_calls(ManyPoint("registered", n, 1, memory_mib=memory[n]), calls[n]) for n in counts]


def _with_calls(point: ManyPoint, calls: Sequence[tuple[float, float, int]]) -> ManyPoint:
    costs, rates, errors = zip(*calls, strict=True)
    return dataclasses.replace(
        point, call_us=statistics.median(costs), rate=statistics.median(rates), errors=sum(errors)
    )


def _called(system: System, model: str, seconds: float) -> tuple[float, float, int]:
    """(CPU microseconds of the gateway per call, calls per second, errors)."""
    with system.meter.window() as spent:
        point = wrk.run(system.address(model), _pool(), callers=CALLERS, seconds=seconds, core=cores()[1])
    return spent["gateway"] / max(1.0, point.rate * point.seconds) * 1e6, point.rate, point.errors


def _wait_for_models(system: System, count: int, within: float) -> None:
    """Return when the gateway has exactly so many ready models.

    Raises:
        Unavailable: not within this many seconds.
    """
    deadline, ready = time.monotonic() + within, -1
    while ready != count:
        if time.monotonic() > deadline:
            raise Unavailable(f"{ready} of {count} models are ready after {within:.0f} s")
        time.sleep(0.25)
        with contextlib.suppress(OSError, http.client.HTTPException):
            _, body = ask(system.address(names_of(1)[0]), "POST", "/v2/repository/index", b'{"ready": true}')
            ready = len(json.loads(body))


async def _register(system: System, known: int, count: int) -> None:
    """Announce models, or take announcements back, so that `count` are known instead of `known`."""
    config = parse(_CONFIG, "config.pbtxt", "many").to_json()
    names = names_of(max(known, count))
    topic = Names(system.prefix).catalogue_topic
    records = []
    for name in names[min(known, count) :]:
        entry = Announcement(name, "1", ModelState.READY, config | {"name": name}, "0" * 64, at=time.time())
        key, value = encode_announcement(entry)
        records.append(OutRecord(value if count > known else b"", key=key))
    settings = TransportSettings(kafka=system.kafka, redis=system.redis, prefix=system.prefix)
    async with open_transport(settings) as transport:
        for start in range(0, len(records), PUBLISHED):
            await transport.bus.publish(topic, records[start : start + PUBLISHED])


# --- the page ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class ManyResults:
    """All points, and what they were measured on."""

    points: list[ManyPoint] = dataclasses.field(default_factory=list)
    about: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> ManyResults:
        """From its JSON; empty if there is no such file."""
        if not path.exists():
            return cls()
        document = json.loads(path.read_text())
        points = [ManyPoint(**point) for point in document["points"]]
        return cls(points, document["about"], document["failed"])

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def add(self, point: ManyPoint) -> None:
        """Replace the point of the same place."""
        self.failed.pop(f"{point.kind} {point.models}", None)
        others = [other for other in self.points if other.place != point.place]
        self.points = sorted([*others, point], key=lambda each: each.place)

    def of(self, kind: str) -> list[ManyPoint]:
        """The points of a kind, by models."""
        return [point for point in self.points if point.kind == kind]


def run(  # noqa: PLR0913  # options
    members: Sequence[int],
    fleets: Sequence[int],
    known: Sequence[int],
    rounds: int,
    seconds: float,
    out: Path,
    say: Callable[[str], None],
) -> None:
    """Measure, and write the page and its JSON; other points of an earlier run stay.

    Raises:
        FleetError: a server does not start.
    """
    data = out.with_suffix(".json")
    results = ManyResults.load(data)
    results.about = machine.about(None, None)
    for kind, counts in (("members", members), ("fleet", fleets)):
        for count in counts:
            try:
                results.add(loaded(kind, count, seconds, say))
            except Unavailable as exc:
                results.failed[f"{kind} {count}"] = exc.message.splitlines()[0]
                say(f"{kind}: {count} models: {exc.message.splitlines()[0]}")
            _write(results, out)
    if known:
        for point in registered(known, rounds, seconds, say):
            results.add(point)
    _write(results, out)


def _write(results: ManyResults, out: Path) -> None:
    results.save(out.with_suffix(".json"))
    out.write_text(page(results))


def per_member(points: Sequence[ManyPoint]) -> dict[str, float]:
    """By process, milliseconds of CPU per second and idle member: the slope of a line through the points; empty with one point."""
    if len({point.models for point in points}) < 2:
        return {}
    mean = statistics.fmean(point.models for point in points)
    spread = sum((point.models - mean) ** 2 for point in points)
    return {
        name: sum((point.models - mean) * point.idle_share.get(name, 0.0) for point in points) / spread * 1000
        for name in points[0].idle_share
    }


_HEAD: Final = """Written by `python -m loadtest many-models`: models that return their input, in topics with one partition; a real
broker and a real Redis; nothing is pinned, and the caller runs on the same cores. See
[operations](../operations.md#many-models) for what follows.
"""
_KNOWN: Final = f"""One model is loaded and called by {CALLERS} callers; the others are in the catalogue only. CPU of the gateway,
the median of alternated rounds.
"""
_FLEET: Final = """Each worker has its part of the models. *Ready* is from the start of the workers until the gateway had all of
them; the rest is of idleness, but for the calls of one model.
"""


def page(results: ManyResults) -> str:
    """The page in Markdown."""
    parts = [
        "# Many models\n",
        _HEAD,
        table(("measured on", ""), list(results.about.items())),
    ]
    if known := results.of("registered"):
        parts += [
            "## A call beside models that are known\n",
            _KNOWN,
            table(
                ("known models", "µs of the gateway per call", "calls/s", "errors", "gateway, MiB"),
                [(p.models, p.call_us, p.rate, p.errors, p.memory_mib.get("gateway")) for p in known],
            ),
        ]
    if fleets := results.of("fleet"):
        parts += [
            f"## One gateway and {WORKERS} workers\n",
            _FLEET,
            table(
                ("models", "ready, s", "gateway", "workers", "kafka", "redis, % of a core", "gateway, MiB", "workers", "kafka",
                 "redis", "µs of the gateway per call"),
                [_fleet_row(point) for point in fleets],
            ),
        ]  # fmt: skip
    if members := results.of("members"):
        parts += [
            "## Members of one worker\n",
            "Each idle model makes the worker a member of one group.\n",
            _members(members),
        ]
    parts += [f"Not measured: {name} models: {problem}.\n" for name, problem in results.failed.items()]
    return "\n".join(parts)


def _fleet_row(point: ManyPoint) -> tuple[Any, ...]:
    def sums(of: dict[str, float], scale: float = 1.0) -> list[float]:
        workers = sum(value for name, value in of.items() if name.startswith("worker"))
        return [scale * of["gateway"], scale * workers, scale * of.get("kafka", 0.0), scale * of.get("redis", 0.0)]

    return (point.models, point.ready_s, *sums(point.idle_share, 100), *sums(point.memory_mib), point.call_us)


def _members(points: Sequence[ManyPoint]) -> str:
    names = list(points[0].idle_share)
    rows: list[tuple[Any, ...]] = [
        (
            point.models,
            *[100 * point.idle_share[name] for name in names],
            point.memory_mib["worker 1"],
            point.memory_mib["kafka"],
        )
        for point in points
        if point.idle_share.keys() == set(names) and "kafka" in point.memory_mib
    ]
    text = table(("idle models", *[f"{name}, % of a core" for name in names], "worker, MiB", "kafka, MiB"), rows)
    if slope := per_member(points):
        text += (
            "\nPer member: "
            + ", ".join(f"{name} {value:.2f} ms" for name, value in slope.items())
            + " of CPU a second.\n"
        )
    return text
