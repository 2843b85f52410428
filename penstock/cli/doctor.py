"""`penstock doctor`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import orjson

from penstock.cli import interrupts
from penstock.cli.options import fleet_options, option
from penstock.cli.settings import transport_settings
from penstock.promises.misconfiguration import Misconfiguration
from protocol.errors import FleetError
from protocol.transport.facts import KafkaFacts
from protocol.transport.settings import TransportSettings

_SILENCE: Final = 5.0
"""Seconds without a heartbeat after which a worker counts as dead."""


@dataclasses.dataclass(frozen=True, slots=True)
class DoctorLine:
    """One line of the diagnosis.

    Attributes:
        subject: what was checked.
        state: "ok", "warning" or "problem".
        text: what was found, and what to do.
        misconfiguration: the setting that breaks a promise of docs/guarantees.md; None for anything else.
    """

    subject: str
    state: str
    text: str
    misconfiguration: Misconfiguration | None = None

    def as_json(self) -> dict[str, Any]:
        """The line as a JSON object."""
        broken = dataclasses.asdict(self.misconfiguration) if self.misconfiguration is not None else None
        return {"subject": self.subject, "state": self.state, "text": self.text, "breach": broken}


@click.command()
@fleet_options
@option("--model-repository", multiple=True, type=click.Path(path_type=Path), help="Also check these repositories.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def command(model_repository: tuple[Path, ...], as_json: bool, **flags: Any) -> None:
    """Check broker, store, repository, frameworks and GPUs, and say what to fix. Exits with 1 on a problem.

    Warns about every setting of Kafka or Redis that breaks a promise of docs/guarantees.md, with the command that fixes it.

    penstock doctor --kafka localhost:9092 --redis redis://localhost:6379 --model-repository models
    """
    lines = [*_frameworks(), *_gpus(), *_repositories(model_repository)]
    if flags["kafka"] or flags["redis"]:
        lines += interrupts.run(_servers(flags))
    else:
        lines.append(DoctorLine("fleet", "ok", "no --kafka and --redis given: one process needs neither"))
    if as_json:
        print(orjson.dumps([line.as_json() for line in lines], option=orjson.OPT_INDENT_2).decode())
    else:
        for line in lines:
            print(f"{line.state:8} {line.subject:12} {line.text}")
    sys.exit(any(line.state == "problem" for line in lines))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _frameworks() -> Iterator[DoctorLine]:
    yield DoctorLine("python", "ok", sys.version.split()[0])
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu and gpu:
        yield DoctorLine(
            "onnxruntime", "problem",
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed, and overwrite each other's files: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of penstock[onnx] and penstock[onnx-gpu]",
        )  # fmt: skip
    elif cpu or gpu:
        yield DoctorLine("onnxruntime", "ok", f"{cpu or gpu}{' with CUDA' if gpu else ', CPU only'}")
    else:
        yield DoctorLine("onnxruntime", "warning", "not installed; for ONNX models: pip install 'penstock[onnx]'")
    torch = _version("torch")
    text = torch or "not installed; for PyTorch models: pip install 'penstock[torch]'"
    yield DoctorLine("torch", "ok" if torch else "warning", text)


def _gpus() -> Iterator[DoctorLine]:
    if importlib.util.find_spec("pynvml") is None:
        yield DoctorLine("gpu", "ok", "not checked; to read NVIDIA's management library: pip install 'penstock[gpu]'")
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        yield DoctorLine("gpu", "ok", f"none that NVIDIA's management library can see ({exc})")
        return
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        yield DoctorLine(
            f"gpu {index}",
            "ok",
            f"{pynvml.nvmlDeviceGetName(handle)}, {memory.free >> 20} MiB of {memory.total >> 20} free",
        )


def _repositories(paths: tuple[Path, ...]) -> Iterator[DoctorLine]:
    from workers.backends import installed
    from workers.checking.compatibility import Status, check_repositories
    from workers.repository.scan import ignored_folders

    for path in paths:
        try:
            for line in ignored_folders([path]):
                yield DoctorLine(str(path), "warning", line)
            results = list(check_repositories([path], installed()))
        except FleetError as exc:
            yield DoctorLine(str(path), "problem", exc.message)
            continue
        refused = [result for result in results if result.status is Status.REFUSED]
        for result in refused:
            yield DoctorLine(f"model {result.model}", "problem", "; ".join(result.reasons))
        text = f"{len(results)} model(s), {len(refused)} refused; details: penstock check {shlex.quote(str(path))}"
        yield DoctorLine(str(path), "ok" if results else "warning", text)


async def _servers(flags: dict[str, Any]) -> list[DoctorLine]:
    from protocol.runtime.outages import Meanwhile
    from protocol.transport import open_transport

    try:
        settings = transport_settings(**flags | {"connect_timeout": min(flags["connect_timeout"], 5.0)})
        transport = open_transport(settings, Meanwhile("", "", start=""))  # the lines below say it
    except FleetError as exc:
        return [DoctorLine("fleet", "problem", exc.message)]
    kafka = await _server("kafka", transport.bus.open, transport.bus.healthy, transport.bus.close)
    redis = await _server("redis", transport.results.open, transport.results.healthy, transport.results.close)
    lines = [kafka, redis]
    facts: list[KafkaFacts] = []
    if kafka.state == "ok":
        lines += await _judged("kafka", _kafka(settings, facts))
    if redis.state == "ok":
        lines += await _judged("redis", _redis(settings))
    if facts and redis.state == "ok":
        lines += await _workers(settings, {topic.name for topic in facts[0].topics})
    return lines


async def _workers(settings: TransportSettings, topics: set[str]) -> list[DoctorLine]:
    from penstock.cli.alive import judged
    from protocol.transport import open_transport

    transport = open_transport(settings)
    try:
        await transport.results.open()
        since = await transport.results.now() - _SILENCE
        beats = [beat for beat in await transport.directory.workers() if beat.at >= since]
    except FleetError as exc:
        return [DoctorLine("workers", "problem", exc.message)]
    finally:
        await transport.results.close()
    return [DoctorLine("workers", state, text) for state, text in judged(beats, topics, settings.names)]


async def _kafka(settings: TransportSettings, facts: list[KafkaFacts]) -> list[Misconfiguration]:
    """The settings that break promises; appends the facts to the list."""
    from gateway.settings import GatewaySettings
    from penstock.promises.kafka import Needs, check_kafka
    from protocol.transport.kafka.facts import read_kafka

    longest = max(GatewaySettings().max_timeout, settings.result_ttl)
    facts.append(await read_kafka(settings))
    return check_kafka(facts[0], Needs(longest, settings.session_timeout, settings.prefix))


async def _redis(settings: TransportSettings) -> list[Misconfiguration]:
    from penstock.promises.redis import check_redis
    from protocol.transport.redis.facts import read_redis

    return check_redis(await read_redis(settings))


async def _judged(name: str, reading: Awaitable[list[Misconfiguration]]) -> list[DoctorLine]:
    try:
        found = await reading
    except FleetError as exc:
        return [DoctorLine(f"{name} settings", "warning", exc.message)]
    return [
        DoctorLine(f"{name} {each.promise}", "problem" if each.severe else "warning", str(each), each) for each in found
    ]


async def _server(
    name: str,
    open_: Callable[[], Awaitable[None]],
    healthy: Callable[[], Awaitable[bool]],
    close: Callable[[], Awaitable[None]],
) -> DoctorLine:
    try:
        await open_()
        state = await healthy()
    except FleetError as exc:
        return DoctorLine(name, "problem", exc.message)
    else:
        return DoctorLine(
            name, "ok" if state else "problem", "answers" if state else "is connected but does not answer"
        )
    finally:
        await close()
