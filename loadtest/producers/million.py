"""A million lines through a fleet that breaks: a worker is killed, the gateway restarted, the submitter interrupted and resumed.

The verdict is exact: the output must have every line once, in order, with the model's values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import psutil

from loadtest.connections import Address
from loadtest.processes import MIB, ServerProcess, resident_bytes
from loadtest.producers.rows import write_jsonl
from loadtest.systems import REDIS_MEMORY, free_port, redis_used_bytes, wait_until_ready
from protocol.errors import Unavailable

MODEL: Final = "addsub"
SAMPLE_EVERY: Final = 1.0
WITHIN: Final = 3600.0
"""Seconds after which a run counts as stuck."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """The state at one time.

    Attributes:
        at: seconds since the beginning.
        lines: of the output so far, as the submitter reports.
        memory_mib: resident memory by process, and what Redis says that it uses.
    """

    at: float
    lines: int
    memory_mib: dict[str, float]


@dataclasses.dataclass(slots=True)
class MillionRun:
    """One run.

    Attributes:
        lines: of the input.
        seconds: from the first start of the submitter to its last end.
        events: what was broken, and when, in seconds.
        samples: once a second.
        problems: what is wrong with the output; empty if nothing is.
    """

    lines: int
    seconds: float = 0.0
    events: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    samples: list[Sample] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def peak_mib(self) -> dict[str, float]:
        """The highest resident memory of each process."""
        peaks: dict[str, float] = {}
        for sample in self.samples:
            for name, value in sample.memory_mib.items():
                peaks[name] = max(peaks.get(name, 0.0), value)
        return peaks


class _Fleet:
    """Kafka, Redis, a gateway and two workers; each can be broken by name."""

    def __init__(self, repository: Path, backing: Any) -> None:
        self.prefix = f"million-{secrets.token_hex(4)}"
        self.transport = ["--kafka", backing.kafka, "--redis", backing.redis, "--prefix", self.prefix]
        self.redis = backing.redis
        self._repository = repository
        self.roots = {"kafka": backing.broker.pid} if backing.broker else {}
        self.roots |= {"redis": backing.store.pid} if backing.store else {}
        self.processes: dict[str, ServerProcess] = {}
        for name in ("worker-1", "worker-2", "gateway"):
            self.start(name)

    def start(self, name: str) -> None:
        """Start one of them, again if it was there before."""
        ports = ["--metrics-port", str(free_port())]
        if name == "gateway":
            self.address = Address("127.0.0.1", free_port(), MODEL)
            line = ["gateway", *self.transport, *ports, "--http-port", str(self.address.port), "--grpc-port", "off"]
        else:
            line = ["worker", "--model-repository", str(self._repository), "--worker", name, *self.transport, *ports]
        self.processes[name] = ServerProcess(["-m", "penstock", *line], None)
        self.roots[name] = self.processes[name].pid

    def kill(self, name: str) -> None:
        """SIGKILL it with all its children, as when a machine fails."""
        root = psutil.Process(self.processes[name].pid)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.processes[name].stop()

    def stop(self) -> None:
        """Stop what was started here."""
        for process in self.processes.values():
            process.stop()

    def memory_mib(self, submitter: int) -> dict[str, float]:
        """Resident memory of all, and Redis' own count."""
        used = {name: resident_bytes(pid) for name, pid in (self.roots | {"submitter": submitter}).items()}
        used["redis used_memory"] = redis_used_bytes(self.redis)
        return {name: size / MIB for name, size in used.items() if size}


def run(cache: Path, lines: int, say: Callable[[str], None], options: Sequence[str] = ()) -> MillionRun:
    """Submit `lines` lines and break things at a quarter, a half and two thirds of them.

    Args:
        cache: a model repository of benchmark models, and the files beside it.
        options: of `penstock batch submit`.

    Raises:
        Unavailable: a process of the fleet or the submitter ended by itself, or the run is stuck.
    """
    from infra.local.servers import servers

    source = write_jsonl(cache / "rows" / f"{MODEL}-{lines}.jsonl", MODEL, lines)
    found = MillionRun(lines)
    with contextlib.ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-million-")))
        backing = stack.enter_context(servers(data, redis_config={"maxmemory": REDIS_MEMORY}))
        fleet = _Fleet(cache, backing)
        stack.callback(fleet.stop)
        wait_until_ready(fleet.address)
        target = data / "answers.jsonl"
        line = [
            "-m",
            "penstock",
            "batch",
            "submit",
            MODEL,
            str(source),
            "-o",
            str(target),
            "--job",
            "million",
            "--json",
        ]
        _drive(found, fleet, [*line, *fleet.transport, *options], say)
        found.problems = list(problems(source, target))
    return found


def _drive(found: MillionRun, fleet: _Fleet, line: Sequence[str], say: Callable[[str], None]) -> None:
    plan = _breakages(fleet)
    begin = time.monotonic()
    submitter, done = ServerProcess(line, None), 0
    name, share, cause = next(plan)
    while True:
        at = time.monotonic() - begin
        status = psutil.Process(submitter.pid).status() if psutil.pid_exists(submitter.pid) else psutil.STATUS_DEAD
        log = submitter.log()
        done = max(done, _answered(log))
        if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            if (code := submitter.stop()) != 0:
                raise Unavailable(f"the submitter ended with {code}: {log[-2000:]}")
            break
        found.samples.append(Sample(at, done, fleet.memory_mib(submitter.pid)))
        if share is not None and done >= share * found.lines:
            found.events.append((at, name))
            say(f"{at:.0f} s, {done:,} lines: {name}")
            cause()
            if name == INTERRUPTED:
                code = _interrupt(submitter)
                say(f"the submitter ended with {code}; the same command again")
                submitter = ServerProcess(line, None)
            name, share, cause = next(plan)
        if at > WITHIN:
            raise Unavailable(f"stuck at {done:,} of {found.lines:,} lines: {log[-2000:]}")
        time.sleep(SAMPLE_EVERY if found.lines > 500_000 else SAMPLE_EVERY / 10)
    found.seconds = time.monotonic() - begin
    say(f"{found.lines:,} lines in {found.seconds:.0f} s")


INTERRUPTED: Final = "the submitter is interrupted (SIGINT)"


def _breakages(fleet: _Fleet) -> Iterator[tuple[str, float | None, Callable[[], None]]]:
    def restart_gateway() -> None:
        fleet.processes["gateway"].stop()
        fleet.start("gateway")

    def nothing() -> None:
        pass

    yield "worker-1 is killed (SIGKILL, all its processes)", 0.25, lambda: fleet.kill("worker-1")
    yield "worker-1 is started again", 0.35, lambda: fleet.start("worker-1")
    yield "the gateway is restarted", 0.5, restart_gateway
    yield INTERRUPTED, 0.65, nothing
    while True:
        yield "", None, nothing


def _interrupt(submitter: ServerProcess) -> int:
    psutil.Process(submitter.pid).send_signal(signal.SIGINT)
    submitter.wait(60.0)
    return submitter.stop()


def _answered(log: str) -> int:
    """The last count of answered lines in the submitter's progress."""
    for text in reversed(log.splitlines()):
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            return int(json.loads(text)["answered"])
    return 0


def problems(source: Path, target: Path) -> Iterator[str]:
    """What is wrong with an output: lines that are missing, doubled, out of order or have other values; at most ten."""
    told = 0
    with source.open("rb") as asked, target.open("rb") as given:
        missing = rest = 0
        for number, (question, answer) in enumerate(itertools.zip_longest(asked, given), 1):
            missing, rest = missing + (answer is None), rest + (question is None)
            if question is None or answer is None:
                continue
            if (problem := _problem(number, orjson.loads(question), orjson.loads(answer))) and told < 10:
                told += 1
                yield problem
    if rest or missing:
        yield f"{missing} lines without an answer at the end, {rest} lines too many"


def _problem(number: int, row: dict[str, list[float]], answer: dict[str, Any]) -> str:
    if answer.get("line") != number:
        return f"line {number} of the output is the answer to line {answer.get('line')}"
    outputs = answer.get("outputs", {})
    pairs = list(zip(row["INPUT0"], row["INPUT1"], strict=True))
    if outputs.get("OUTPUT0") != [a + b for a, b in pairs] or outputs.get("OUTPUT1") != [a - b for a, b in pairs]:
        return f"line {number} has the wrong answer: {str(answer)[:200]}"
    return ""
