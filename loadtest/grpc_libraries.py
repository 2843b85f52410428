"""What a gRPC library costs: one server per library that echoes the bytes of a ModelInfer call, loaded by h2load.

`python -m loadtest.grpc_libraries` runs every library that this interpreter has; docs/decisions/0017 has the figures. The server is
on one core and h2load (package nghttp2-client), which is written in C, on another.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

from loadtest.processes import cores
from loadtest.systems import free_port
from protocol.errors import Unavailable

CALLERS: Final = 32
PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
_STARTS: Final = 30.0
_HEADERS: Final = ("-H", "content-type: application/grpc", "-H", "te: trailers")
_RATE: Final = re.compile(r"finished in [^,]+, ([\d.]+) req/s")
_TIME: Final = re.compile(r"time for request:\s+\S+\s+\S+\s+(\S+)")


def grpc_aio(port: int) -> None:
    """grpcio's asyncio server with a handler that takes and returns bytes, as the gateway's does."""
    import grpc
    import grpc.aio
    import uvloop

    async def echo(messages: Any, context: Any) -> bytes:
        message: bytes = await context.read()
        return message

    async def serve() -> None:
        server = grpc.aio.server()
        handlers = {"ModelInfer": grpc.stream_unary_rpc_method_handler(echo)}
        server.add_registered_method_handlers("inference.GRPCInferenceService", handlers)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    uvloop.run(serve())


def pygrpc_native(port: int) -> None:
    """HTTP/2 in Rust under grpcio's API."""
    import grpc
    import pygrpc_native.aio as native  # type: ignore[import-not-found,unused-ignore]
    import uvloop

    async def echo(message: bytes, context: Any) -> bytes:
        return message

    async def serve() -> None:
        server = native.server()
        handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    uvloop.run(serve())


def grpclib(port: int) -> None:
    """Pure Python on h2."""
    import uvloop
    from grpclib.const import Cardinality, Handler  # type: ignore[import-not-found,unused-ignore]
    from grpclib.encoding.base import CodecBase  # type: ignore[import-not-found,unused-ignore]
    from grpclib.server import Server  # type: ignore[import-not-found,unused-ignore]

    class Raw(CodecBase):  # type: ignore[misc,unused-ignore]
        __content_subtype__ = "proto"

        def encode(self, message: bytes, message_type: Any) -> bytes:
            return message

        def decode(self, data: bytes, message_type: Any) -> bytes:
            return data

    class Echo:
        async def infer(self, stream: Any) -> None:
            await stream.send_message(await stream.recv_message())

        def __mapping__(self) -> dict[str, Any]:
            return {PATH: Handler(self.infer, Cardinality.UNARY_UNARY, bytes, bytes)}

    async def serve() -> None:
        server = Server([Echo()], codec=Raw())
        await server.start("127.0.0.1", port)
        await server.wait_closed()

    uvloop.run(serve())


LIBRARIES: Final[dict[str, tuple[str, Callable[[int], None]]]] = {
    "grpc.aio": ("grpc", grpc_aio),
    "pygrpc-native": ("pygrpc_native", pygrpc_native),
    "grpclib": ("grpclib", grpclib),
}


def measure(name: str, body: Path, seconds: int) -> str:
    """A row of the table: requests per second with 32 connections, CPU per request, and the mean time of one caller."""
    server_core, load_core = cores()
    if server_core is None or load_core is None:
        raise Unavailable("the measurement needs two cores: one for the server, one for the load")
    port = free_port()
    line = [sys.executable, "-m", "loadtest.grpc_libraries", "--serve", name, "--port", str(port)]
    with subprocess.Popen(["taskset", "-c", str(server_core), *line]) as server:  # noqa: S603, S607
        try:
            _until_it_answers(port, body)
            process = psutil.Process(server.pid)
            before, started = sum(process.cpu_times()[:2]), time.monotonic()
            rate, _ = _load(port, body, CALLERS, seconds, load_core)
            cpu = sum(process.cpu_times()[:2]) - before
            took = time.monotonic() - started
            _, one = _load(port, body, 1, max(1, seconds // 2), load_core)
        finally:
            server.kill()
    share = cpu / took
    return f"| {name} | {rate:.0f} | {share / rate * 1e6:.0f} | {one} |"


def _load(port: int, body: Path, callers: int, seconds: int, core: int) -> tuple[float, str]:
    """(requests per second, mean time of a request)."""
    url = f"http://127.0.0.1:{port}{PATH}"
    line = [
        "taskset", "-c", str(core), "h2load", "-c", str(callers), "-m", "1", "-t", "1", "-D", str(seconds), "--warm-up-time", "1",
        *_HEADERS, "-d", str(body), url,
    ]  # fmt: skip
    out = subprocess.run(line, capture_output=True, text=True, check=True).stdout  # noqa: S603
    rate, took = _RATE.search(out), _TIME.search(out)
    assert rate is not None
    assert took is not None
    return float(rate[1]), took[1]


def _until_it_answers(port: int, body: Path) -> None:
    deadline = time.monotonic() + _STARTS
    while time.monotonic() < deadline:
        line = ["h2load", "-n", "1", *_HEADERS, "-d", str(body), f"http://127.0.0.1:{port}{PATH}"]
        if "1 succeeded" in subprocess.run(line, capture_output=True, text=True, check=False).stdout:  # noqa: S603
            return
        time.sleep(0.2)
    raise TimeoutError(f"nothing answers on port {port}")


def echo_body(folder: Path) -> Path:
    """A file with a framed message of two inputs of 16 INT32, as h2load sends it."""
    message = b"x" * 192  # the size of such a request; an echo does not read it
    file = folder / "body"
    file.write_bytes(struct.pack(">BI", 0, len(message)) + message)
    return file


def main() -> None:
    """Measure, or serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=LIBRARIES)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    if options.serve:
        LIBRARIES[options.serve][1](options.port)
        return
    with tempfile.TemporaryDirectory() as folder:
        body = echo_body(Path(folder))
        print(f"| library | requests/s, {CALLERS} connections | CPU per request, µs | one caller, mean |")
        print("| --- | --- | --- | --- |")
        for name, (package, _) in LIBRARIES.items():
            if importlib.util.find_spec(package) is not None:
                print(measure(name, body, options.seconds), flush=True)


if __name__ == "__main__":
    main()
