"""A gateway under every attack at once, beside an honest caller: measures its memory, the caller's latency, and wrong answers.

The honest caller is timed in open loop, first alone and then under attack, at the same moments. Attackers are separate processes.
Nothing is pinned. Memory is that of the gateway's process and its children.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from loadtest import arrivals, direct, models, payloads
from loadtest.besiegers import Counted, counted_of
from loadtest.connections import HttpTarget
from loadtest.machine import about
from loadtest.openloop import open_loop
from loadtest.processes import Meter, ServerProcess, before_all_others
from loadtest.run import on_fresh_loop
from loadtest.samples import Samples
from loadtest.siege_attacks import ATTACKS
from loadtest.systems import System, embedded, fleet

HONEST: Final = "addsub"
SLOWER: Final = 2.0
"""How much slower an honest caller's p99 may be under attack."""
BESIEGERS: Final = 2
"""Processes that attack."""
_LOOK_EVERY: Final = 0.25
_IDENTITY: Final = """\
name: "%s"
backend: "identity"
max_batch_size: 0
input [ { name: "IN" data_type: %s dims: [ -1 ] } ]
output [ { name: "OUT" data_type: %s dims: [ -1 ] } ]
"""
_STUCK: Final = """\
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(5)
        given = [pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("OUT", array)]) for array in given]
"""


@dataclasses.dataclass(frozen=True, slots=True)
class SiegePlan:
    """A siege.

    Attributes:
        system: "embedded" or "fleet".
        seconds: under attack.
        before: seconds of the honest caller alone.
        rate: of the honest caller, calls per second.
        scale: factor for the attacks' rates.
        limit_mib: the gateway's budget of bytes.
        gateway_options: added to its command line.
        names: of the attacks.
    """

    system: str = "fleet"
    seconds: float = 600.0
    before: float = 60.0
    rate: float = 50.0
    scale: float = 1.0
    limit_mib: int = 512
    gateway_options: tuple[str, ...] = ()
    names: tuple[str, ...] = tuple(ATTACKS)


@dataclasses.dataclass
class Siege:
    """The results of a siege.

    Attributes:
        about: of the machine and the software.
        plan: its plan.
        quiet, attacked: the honest caller's outcomes and latencies, as `Samples.summary`.
        memory: (seconds since the attack began, MiB of all the gateway's processes).
        before_mib: the same before the attack.
        highest_mib: the kernel's maximum of the resident memory of the gateway's own process; 0 if it keeps none.
        attacks: counts of each attack.
        complaints: of the honest caller.
    """

    about: dict[str, str]
    plan: SiegePlan
    quiet: dict[str, Any]
    attacked: dict[str, Any]
    memory: list[tuple[float, float]]
    before_mib: float
    highest_mib: float
    attacks: list[Counted]
    complaints: dict[str, int]

    @property
    def slower(self) -> float:
        """The honest caller's p99 under attack, relative to that without."""
        return float(self.attacked["latency_ms"]["p99"] / self.quiet["latency_ms"]["p99"])

    @property
    def peak_mib(self) -> float:
        """The maximum of all its processes together."""
        return max([self.highest_mib, *[mib for _, mib in self.memory]])

    @property
    def wrong(self) -> int:
        """Wrong answers, to the honest caller and to attackers."""
        honest = self.quiet["outcomes"]["wrong"] + self.attacked["outcomes"]["wrong"]
        return int(honest) + sum(each.wrong_count for each in self.attacks)

    @property
    def verdicts(self) -> dict[str, bool]:
        """Each promise, and whether it held."""
        return {
            f"p99 of an honest caller within {SLOWER:g} times": self.slower <= SLOWER,
            "no wrong answer": self.wrong == 0,
            f"at most {self.plan.limit_mib} MiB more than before": self.peak_mib
            <= self.before_mib + self.plan.limit_mib,
            "the honest caller was served": self.attacked["outcomes"]["failed"] == 0
            and self.attacked["outcomes"]["rejected"] == 0,
        }


def run_siege(plan: SiegePlan, say: Callable[[str], object] = lambda text: None) -> Siege:
    """Start a gateway with a worker, attack it, and judge."""
    with tempfile.TemporaryDirectory(prefix="penstock-siege-") as folder:
        repository = write_models(Path(folder))
        pool = payloads.build(models.MODELS[HONEST].inputs, reference=direct.load(repository / HONEST))
        start = {"embedded": embedded, "fleet": fleet}[plan.system]
        with start(repository, None, HONEST, pool, gateway_options=plan.gateway_options) as system:
            return _siege(plan, system, HttpTarget(system.address(HONEST), pool), say)


def _siege(plan: SiegePlan, system: System, target: HttpTarget, say: Callable[[str], object]) -> Siege:
    root = system.meter.pid("server" if plan.system == "embedded" else "gateway")
    _call(target, plan.rate, min(plan.before, 2.0))
    say(f"{plan.before:g} s of the honest caller alone")
    quiet = _call(target, plan.rate, plan.before)
    before_mib = Meter({"gateway": root}).memory_mib()["gateway"]
    say(f"{plan.seconds:g} s under {len(plan.names)} attacks")
    with _attackers(plan, system) as attackers, _watched(root, plan.seconds) as memory:
        attacked = _call(target, plan.rate, plan.seconds)
        counted = [each for process in attackers for each in counted_of(_output(process))]
    return Siege(
        about(None, None), plan, quiet.summary(), attacked.summary(), memory, before_mib, _highest_mib(root),
        sorted(counted, key=lambda each: plan.names.index(each.name)), dict(target.complaints),
    )  # fmt: skip


@contextlib.contextmanager
def _attackers(plan: SiegePlan, system: System) -> Iterator[list[ServerProcess]]:
    started: list[ServerProcess] = []
    try:
        for place in range(BESIEGERS):
            names = plan.names[place::BESIEGERS]
            facts = (system.port, system.metrics, plan.seconds, plan.scale, place)
            line = ["-m", "loadtest.besiegers", *map(str, facts), *names]
            started += [ServerProcess(line, None)] if names else []
        yield started
    finally:
        for process in started:
            process.stop()


def _output(process: ServerProcess) -> str:
    """Its output, once it has ended."""
    process.wait(30.0)
    return process.log()


@contextlib.contextmanager
def _watched(root: int, seconds: float) -> Iterator[list[tuple[float, float]]]:
    """A list that holds, after the block, the memory of a process and its children; read by a separate process."""
    series: list[tuple[float, float]] = []
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        watching = pool.submit(_watch, root, seconds)
        yield series
        series += watching.result()


def _watch(root: int, seconds: float) -> list[tuple[float, float]]:
    meter, begin = Meter({"gateway": root}), time.monotonic()
    series: list[tuple[float, float]] = []
    pause = threading.Event()
    while (elapsed := time.monotonic() - begin) < seconds:
        series.append((round(elapsed, 2), round(meter.memory_mib()["gateway"], 1)))
        pause.wait(_LOOK_EVERY)
    return series


def _highest_mib(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _call(target: HttpTarget, rate: float, seconds: float) -> Samples:
    samples = Samples()
    times = arrivals.schedule("poisson", rate, seconds, seed=0)
    with before_all_others():
        on_fresh_loop(open_loop(target, times, samples, grace=70.0))
    return samples


def write_models(folder: Path) -> Path:
    """The models of a siege: one for the honest caller, and three for the attacks."""
    models.write_repository(folder, [HONEST])
    configs = {
        "any": _IDENTITY % ("any", "TYPE_FP32", "TYPE_FP32"),
        "text": _IDENTITY % ("text", "TYPE_STRING", "TYPE_STRING"),
        "stuck": (_IDENTITY % ("stuck", "TYPE_FP32", "TYPE_FP32")).replace("identity", "python"),
    }
    for name, config in configs.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    (folder / "stuck" / "1" / "model.py").write_text(_STUCK)
    return folder


def save(siege: Siege, path: Path) -> None:
    """As JSON."""
    path.write_bytes(orjson.dumps(dataclasses.asdict(siege), option=orjson.OPT_INDENT_2) + b"\n")


def load(path: Path) -> Siege:
    """What `save` wrote."""
    raw = orjson.loads(path.read_bytes())
    plan: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in raw["plan"].items()
    }
    raw["plan"] = SiegePlan(**plan)
    raw["attacks"] = [Counted(**each) for each in raw["attacks"]]
    raw["memory"] = [(seconds, mib) for seconds, mib in raw["memory"]]
    return Siege(**raw)


def names_of(parts: Sequence[str]) -> tuple[str, ...]:
    """The attacks with one of these parts in their name; all if none is given.

    Raises:
        ValueError: there is none.
    """
    chosen = tuple(name for name in ATTACKS if not parts or any(part in name for part in parts))
    if not chosen:
        raise ValueError(f"no attack has {' or '.join(parts)} in its name; there are {', '.join(ATTACKS)}")
    return chosen
