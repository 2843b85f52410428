"""A soak of gRPC streams that their callers cancel: `python -m loadtest.grpc_soak --seconds 600`.

A caller opens a stream, sends requests, reads some answers, and cancels or half-closes. The server's memory is recorded meanwhile;
it must be flat from the first quarter of the run on.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadtest import models
from loadtest.processes import Meter, ServerProcess
from loadtest.systems import free_port
from protocol.proto import message_class

STREAMS: Final = 32
"""Streams open at once, each on a connection of its own."""
ALLOWED_MIB: Final = 24.0
"""Growth that is the allocator's and not a leak."""
_MODEL: Final = "addsub-python"
_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclasses.dataclass
class Outcome:
    """The results of a run.

    Attributes:
        streams, cancelled, answers: how many.
        memory_mib: of the server, one number per twentieth of the run.
    """

    streams: int = 0
    cancelled: int = 0
    answers: int = 0
    memory_mib: list[float] = dataclasses.field(default_factory=list)

    @property
    def growth_mib(self) -> float:
        """From the end of the first quarter to the end."""
        return self.memory_mib[-1] - self.memory_mib[len(self.memory_mib) // 4]

    def __str__(self) -> str:
        return (
            f"{self.streams} streams, {self.cancelled} cancelled, {self.answers} answers; memory {self.memory_mib[0]:.0f} MiB at "
            f"the start, {self.memory_mib[len(self.memory_mib) // 4]:.0f} after a quarter, {self.memory_mib[-1]:.0f} at the end"
        )


async def soak(seconds: float, say: Callable[[str], object] = lambda text: None) -> Outcome:
    """Load a server with streams for so long."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        repository, port = models.write_repository(Path(folder), [_MODEL]), free_port()
        ports = ["--http-port", "0", "--grpc-port", str(port), "--metrics-port", "0"]
        server = ServerProcess(
            ["-m", "penstock", "serve", "--model-repository", str(repository), *ports, "--log-level", "error"], None
        )
        try:
            await _until_it_serves(port, server)
            meter, ends = Meter({"server": server.pid}), time.monotonic() + seconds
            callers = [asyncio.ensure_future(_caller(port, number, ends, outcome)) for number in range(STREAMS)]
            while time.monotonic() < ends and not any(caller.done() for caller in callers):
                outcome.memory_mib.append(meter.memory_mib()["server"])
                say(f"{outcome.streams} streams, {outcome.memory_mib[-1]:.0f} MiB")
                await asyncio.sleep(seconds / 20)
            await asyncio.gather(*callers)
            outcome.memory_mib.append(meter.memory_mib()["server"])
            server.check()
        finally:
            server.stop()
    return outcome


def _request() -> bytes:
    row = np.arange(16, dtype=np.float32).tobytes()
    request: Any = message_class("inference.ModelInferRequest")(model_name=_MODEL, raw_input_contents=[row, row])
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 16])
    raw: bytes = request.SerializeToString()
    return raw


async def _until_it_serves(port: int, server: ServerProcess) -> None:
    import grpc
    import grpc.aio

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(300):
            server.check()
            try:
                await call(_request(), timeout=5)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)
            else:
                return
    raise TimeoutError("the server does not serve")


async def _caller(port: int, number: int, ends: float, outcome: Outcome) -> None:
    import grpc.aio

    dice, request = random.Random(number), _request()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        while time.monotonic() < ends:
            call = channel.stream_stream(_METHOD)()
            count = dice.randrange(1, 20)
            for _ in range(count):
                await call.write(request)
            for _ in range(dice.randrange(count)):
                await call.read()
                outcome.answers += 1
            outcome.streams += 1
            if dice.random() < 0.8:
                call.cancel()
                outcome.cancelled += 1
            else:
                await call.done_writing()
                while await call.read() is not grpc.aio.EOF:
                    outcome.answers += 1


def main() -> int:
    """Run it; 1 if memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    outcome = asyncio.run(soak(parser.parse_args().seconds, lambda text: print(text, flush=True)))
    print(outcome)
    return int(outcome.growth_mib > ALLOWED_MIB)


if __name__ == "__main__":
    sys.exit(main())
