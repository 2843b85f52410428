"""`penstock doctor`."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import orjson

from penstock.cli.options import fleet_options, option
from penstock.cli.settings import transport_settings
from penstock.promises.misconfiguration import Breach
from protocol.errors import FleetError
from protocol.transport.facts import KafkaFacts
from protocol.transport.settings import TransportSettings

_SILENCE: Final = 5.0
"""Seconds after which a worker counts as gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        subject: what was looked at.
        state: "ok", "warning" or "problem".
        text: what was found, and what to do.
        breach: of a promise of docs/guarantees.md: which, by which setting, and the command that mends it; None for anything else.
    """

    subject: str
    state: str
    text: str
    breach: Breach | None = None


@click.command()
@fleet_options
@option("--model-repository", multiple=True, type=click.Path(path_type=Path), help="Look at these, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def command(model_repository: tuple[Path, ...], as_json: bool, **flags: Any) -> None:
    """Look at broker, store, repository, frameworks and GPUs, and say what to fix. Exits with 1 on a problem.

    Warns where a setting of Kafka or Redis breaks a promise of docs/guarantees.md, with the command that mends it.

    penstock doctor --kafka localhost:9092 --redis redis://localhost:6379 --model-repository models
    """
    findings = [*_frameworks(), *_gpus(), *_repositories(model_repository)]
    if flags["kafka"] or flags["redis"]:
        findings += asyncio.run(_servers(flags))
    else:
        findings.append(Finding("fleet", "ok", "no --kafka and --redis given: one process needs neither"))
    if as_json:
        print(orjson.dumps([dataclasses.asdict(finding) for finding in findings], option=orjson.OPT_INDENT_2).decode())
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.subject:12} {finding.text}")
    sys.exit(any(finding.state == "problem" for finding in findings))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _frameworks() -> Iterator[Finding]:
    yield Finding("python", "ok", sys.version.split()[0])
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu and gpu:
        yield Finding(
            "onnxruntime", "problem",
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed, and overwrite each other's files: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of penstock[onnx] and penstock[onnx-gpu]",
        )  # fmt: skip
    elif cpu or gpu:
        yield Finding("onnxruntime", "ok", f"{cpu or gpu}{' with CUDA' if gpu else ', CPU only'}")
    else:
        yield Finding("onnxruntime", "warning", "not installed; for ONNX models: pip install 'penstock[onnx]'")
    torch = _version("torch")
    text = torch or "not installed; for PyTorch models: pip install 'penstock[torch]'"
    yield Finding("torch", "ok" if torch else "warning", text)


def _gpus() -> Iterator[Finding]:
    if importlib.util.find_spec("pynvml") is None:
        yield Finding("gpu", "ok", "not looked for: pip install 'penstock[gpu]' reads NVIDIA's management library")
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        yield Finding("gpu", "ok", f"none that NVIDIA's management library can see ({exc})")
        return
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        yield Finding(
            f"gpu {index}",
            "ok",
            f"{pynvml.nvmlDeviceGetName(handle)}, {memory.free >> 20} MiB of {memory.total >> 20} free",
        )


def _repositories(paths: tuple[Path, ...]) -> Iterator[Finding]:
    from workers.backends import installed
    from workers.checking.compatibility import Status, check_repositories
    from workers.repository.scan import ignored_folders

    for path in paths:
        try:
            for line in ignored_folders([path]):
                yield Finding(str(path), "warning", line)
            results = list(check_repositories([path], installed()))
        except FleetError as exc:
            yield Finding(str(path), "problem", exc.message)
            continue
        refused = [result for result in results if result.status is Status.REFUSED]
        for result in refused:
            yield Finding(f"model {result.model}", "problem", "; ".join(result.reasons))
        text = f"{len(results)} model(s), {len(refused)} refused; details: penstock check {path}"
        yield Finding(str(path), "ok" if results else "warning", text)


async def _servers(flags: dict[str, Any]) -> list[Finding]:
    from protocol.transport import open_transport

    try:
        settings = transport_settings(**flags | {"connect_timeout": min(flags["connect_timeout"], 5.0)})
        transport = open_transport(settings)
    except FleetError as exc:
        return [Finding("fleet", "problem", exc.message)]
    kafka = await _server("kafka", transport.bus.open, transport.bus.healthy, transport.bus.close)
    redis = await _server("redis", transport.results.open, transport.results.healthy, transport.results.close)
    findings = [kafka, redis]
    facts: list[KafkaFacts] = []
    if kafka.state == "ok":
        findings += await _judged("kafka", _kafka(settings, facts))
    if redis.state == "ok":
        findings += await _judged("redis", _redis(settings))
    if facts and redis.state == "ok":
        findings += await _workers(settings, {topic.name for topic in facts[0].topics})
    return findings


async def _workers(settings: TransportSettings, topics: set[str]) -> list[Finding]:
    from penstock.cli.alive import judged
    from protocol.transport import open_transport

    transport = open_transport(settings)
    try:
        await transport.results.open()
        since = await transport.results.now() - _SILENCE
        beats = [beat for beat in await transport.directory.workers() if beat.at >= since]
    except FleetError as exc:
        return [Finding("workers", "problem", exc.message)]
    finally:
        await transport.results.close()
    return [Finding("workers", state, text) for state, text in judged(beats, topics, settings.names)]


async def _kafka(settings: TransportSettings, facts: list[KafkaFacts]) -> list[Breach]:
    """What breaks promises; the facts are put into the list."""
    from gateway.settings import GatewaySettings
    from penstock.promises.kafka import Needs, judge
    from protocol.transport.kafka.facts import read_kafka

    longest = max(GatewaySettings().max_timeout, settings.result_ttl)
    facts.append(await read_kafka(settings))
    return judge(facts[0], Needs(longest, settings.session_timeout, settings.prefix))


async def _redis(settings: TransportSettings) -> list[Breach]:
    from penstock.promises.redis import judge
    from protocol.transport.redis.facts import read_redis

    return judge(await read_redis(settings))


async def _judged(name: str, reading: Awaitable[list[Breach]]) -> list[Finding]:
    try:
        breaches = await reading
    except FleetError as exc:
        return [Finding(f"{name} settings", "warning", exc.message)]
    return [
        Finding(f"{name} {each.promise}", "problem" if each.severe else "warning", str(each), each) for each in breaches
    ]


async def _server(
    name: str,
    open_: Callable[[], Awaitable[None]],
    healthy: Callable[[], Awaitable[bool]],
    close: Callable[[], Awaitable[None]],
) -> Finding:
    try:
        await open_()
        state = await healthy()
    except FleetError as exc:
        return Finding(name, "problem", exc.message)
    else:
        return Finding(name, "ok" if state else "problem", "answers" if state else "is connected, and does not answer")
    finally:
        await close()
