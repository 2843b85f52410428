"""The gRPC fuzzer: a gateway in its own process, random and mutated messages to every method, and its memory watched meanwhile."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import random
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from gateway.rpc.replies import varint
from loadtest.processes import Meter, ServerProcess
from loadtest.systems import free_port
from protocol.proto import descriptor, message_class
from tests.bad_input.http_fuzz import BUDGET_MIB, SLACK_MIB
from tests.bad_input.requests import write_models

CONNECTIONS: Final = 8
CALLS: Final = 16
"""Calls in flight on each connection."""
_START_WITHIN: Final = 60.0
_SERVICE: Final = "/inference.GRPCInferenceService/"
_RIGHT: Final = frozenset(
    {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "UNIMPLEMENTED",
        "RESOURCE_EXHAUSTED",
        "UNAVAILABLE",
        "CANCELLED",
        "DEADLINE_EXCEEDED",
    }
)
"""Statuses that a malformed message may get; INTERNAL and UNKNOWN are faults."""
_NOT_MUTATED: Final = frozenset({"RepositoryModelLoad", "RepositoryModelUnload"})
"""A mutated message to these may be a sound one that takes the honest model away; they get random bytes."""
_ROW: Final = struct.pack("<4f", 1, 2, 3, 4)
METHODS: Final = tuple(descriptor("inference.ServerLiveRequest").file.services_by_name["GRPCInferenceService"].methods)


@dataclasses.dataclass
class Outcome:
    """The results of a run.

    Attributes:
        problems: the first of them, with the number of their message.
        messages: sent.
        statuses: how the calls ended.
        seconds: how long it took.
        before_mib, peak_mib, after_mib: the gateway's resident memory.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    messages: int = 0
    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0
    before_mib: float = 0.0
    peak_mib: float = 0.0
    after_mib: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.messages} messages in {self.seconds:.0f} s; {dict(self.statuses)}; memory {self.before_mib:.0f} MiB before, "
            f"{self.peak_mib:.0f} at most, {self.after_mib:.0f} after; {len(self.problems)} problems"
        )


def honest(label: str = "") -> Any:
    """A sound request."""
    request: Any = message_class("inference.ModelInferRequest")(model_name="echo", id=label, raw_input_contents=[_ROW])
    request.inputs.add(name="IN", datatype="FP32", shape=[1, 4])
    return request


def message_of(seed: int, number: int) -> tuple[str, bytes]:
    """(method, message); depends only on the two numbers."""
    dice = random.Random(f"{seed} {number}")
    method = "ModelInfer" if dice.random() < 0.6 else dice.choice(METHODS).name
    if method in _NOT_MUTATED or dice.random() < 0.15:
        return method, dice.randbytes(dice.choice((0, 1, 3, 20, 200, 3000)))
    return method, mutated(dice, _sound(dice, method))


def _sound(dice: random.Random, method: str) -> bytes:
    if method in ("ModelInfer", "ModelStreamInfer"):
        request = honest(dice.choice(("", "x", "é" * 40)))
        if dice.random() < 0.3:
            request.ClearField("raw_input_contents")
            for each in request.inputs:
                getattr(each.contents, dice.choice(("int_contents", "fp32_contents", "bool_contents"))).extend([1, 0])
        for name in dice.sample(("priority", "timeout", "sequence_id", "lane", "triton_x", "own"), dice.randrange(3)):
            field = dice.choice(("bool_param", "int64_param", "uint64_param"))
            setattr(request.parameters[name], field, dice.choice((0, 1)))
        if dice.random() < 0.3:
            output = request.outputs.add(name=dice.choice(("OUT", "nope")))
            output.parameters[dice.choice(("classification", "shared_memory_region", "own"))].int64_param = 2
    else:
        request = message_class(f"inference.{method}Request")()
        for field in request.DESCRIPTOR.fields:
            if field.name in ("name", "model_name"):
                setattr(request, field.name, dice.choice(("echo", "text", "nope", "")))
    raw: bytes = request.SerializeToString()
    return raw


def mutated(dice: random.Random, raw: bytes) -> bytes:
    """The message with a few changes: of bits, pieces, lengths, or with fields of any kind put in."""
    data = bytearray(raw)
    for _ in range(dice.choice((0, 1, 1, 2, 5))):
        at, kind = dice.randrange(len(data) + 1), dice.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del data[at : at + dice.choice((1, 2, 8, 100))]
        elif kind == 2:
            data[at:at] = dice.randbytes(dice.choice((1, 4, 64)))
        elif kind == 3:
            data[at:at] = data[: dice.randrange(len(data) + 1)]
        elif kind == 4:
            data += varint(dice.randrange(1, 400)) + varint(dice.choice((0, 1, 127, 128, 2**31, 2**63)))
        else:
            data += bytes(dice.choice((b"\x2a\x00", b"\x3a\x00", b"\x22\x00", b"\x12\x01a"))) * dice.choice(
                (3, 300, 3000)
            )
    return bytes(data)


async def fuzz(seed: int, first: int, messages: int, say: Callable[[str], object] = lambda text: None) -> Outcome:
    """Send so many messages from this number on; then the gateway must be as before."""
    outcome = Outcome()
    with _served() as (port, server):
        await _until_it_serves(port, server)
        meter = Meter({"gateway": server.pid})
        outcome.before_mib = outcome.peak_mib = meter.memory_mib()["gateway"]
        started, numbers = time.monotonic(), iter(range(first, first + messages))
        async with _watched(meter, outcome, say):
            await asyncio.gather(*[_connection(port, seed, numbers, outcome) for _ in range(CONNECTIONS)])
        outcome.seconds = time.monotonic() - started
        server.check()
        async with _channel(port) as channel:
            outcome.problems += await _wrong(channel, 50)
        outcome.after_mib = meter.memory_mib()["gateway"]
        if outcome.peak_mib > outcome.before_mib + BUDGET_MIB + SLACK_MIB:
            outcome.problems.append(f"memory: {outcome.peak_mib:.0f} MiB, {outcome.before_mib:.0f} before")
        if "Traceback" in (log := server.log()):
            outcome.problems.append(f"its log has a trace: {log[-2000:]}")
    return outcome


@contextlib.contextmanager
def _served() -> Iterator[tuple[int, ServerProcess]]:
    with tempfile.TemporaryDirectory(prefix="penstock-fuzz-") as folder:
        models, port = write_models(Path(folder)), free_port()
        ports = ["--http-port", "0", "--grpc-port", str(port), "--metrics-port", "0"]
        line = ["-m", "penstock", "serve", "--model-repository", str(models), *ports, "--log-level", "error"]
        server = ServerProcess(line, None)
        try:
            yield port, server
        finally:
            server.stop()


def _channel(port: int) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


async def _connection(port: int, seed: int, numbers: Iterator[int], outcome: Outcome) -> None:
    async with _channel(port) as channel:
        await asyncio.gather(*[_caller(channel, seed, numbers, outcome) for _ in range(CALLS)])


async def _caller(channel: grpc.aio.Channel, seed: int, numbers: Iterator[int], outcome: Outcome) -> None:
    for number in numbers:
        method, message = message_of(seed, number)
        outcome.messages += 1
        try:
            status = await asyncio.wait_for(_sent(channel, method, message, number), 30)
        except TimeoutError:
            status = "no answer within 30 s"
        outcome.statuses[status] += 1
        if status not in _RIGHT and len(outcome.problems) < 100:
            outcome.problems.append(f"message {number} to {method}: {status}")
        if number % 100 == 0:
            outcome.problems += await _wrong(channel, 1)


async def _sent(channel: grpc.aio.Channel, method: str, message: bytes, number: int) -> str:
    """The status of one call; some are cancelled, and streams get several messages."""
    if method != "ModelStreamInfer":
        call: Any = channel.unary_unary(_SERVICE + method)(message, timeout=20)
    else:
        call = channel.stream_stream(_SERVICE + method)(iter([message] * (1 + number % 5)), timeout=20)
    if number % 50 == 7:
        await asyncio.sleep(0)
        call.cancel()
    code = await call.code()
    return str(code.name)


async def _wrong(channel: grpc.aio.Channel, count: int) -> list[str]:
    """Problems of honest requests."""
    problems = []
    for label in map(str, range(count)):
        try:
            raw = await channel.unary_unary(f"{_SERVICE}ModelInfer")(honest(label).SerializeToString(), timeout=20)
        except grpc.aio.AioRpcError as error:
            problems.append(f"an honest request: {error.code().name} {error.details()}")
            continue
        answer: Any = message_class("inference.ModelInferResponse").FromString(raw)
        if answer.id != label or list(answer.raw_output_contents) != [_ROW]:
            problems.append(f"an honest request got {answer}")
    return problems


async def _until_it_serves(port: int, server: ServerProcess) -> None:
    deadline = time.monotonic() + _START_WITHIN
    async with _channel(port) as channel:
        while problems := await _wrong(channel, 1):
            server.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the gateway does not serve: {problems}")
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _watched(meter: Meter, outcome: Outcome, say: Callable[[str], object]) -> AsyncIterator[None]:
    async def watch() -> None:
        for look in itertools.count(1):
            await asyncio.sleep(1.0)
            outcome.peak_mib = max(outcome.peak_mib, meter.memory_mib()["gateway"])
            if look % 10 == 0:
                say(f"{outcome.messages} messages, {len(outcome.problems)} problems")

    task = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
