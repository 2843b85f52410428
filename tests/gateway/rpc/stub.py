"""A gRPC client of the tests: raw bytes out, our own message classes in."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio

from protocol.proto import message_class
from tests.gateway.fleet import Running

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
ROW = struct.pack("<16f", *range(16))


def message(kind: str, /, **fields: Any) -> Any:
    """A message of the package `inference`."""
    return message_class(f"inference.{kind}")(**fields)


def infer_request(
    model: str = "add_sub",
    raws: Sequence[bytes] = (ROW, ROW),
    names: Sequence[str] = ("INPUT0", "INPUT1"),
    datatype: str = "FP32",
    shape: Sequence[int] = (1, 16),
    **fields: Any,
) -> Any:
    """A ModelInferRequest."""
    request = message("ModelInferRequest", model_name=model, raw_input_contents=raws, **fields)
    for name in names:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    return request


class Stub:
    """Calls of the service by name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def call(self, method: str, request: Any = None, answer: str = "", **options: Any) -> Any:
        """One unary call; `method` is also the stem of its messages' names."""
        send = self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        if request is None:
            request = message(f"{method}Request")
        raw = await send(request.SerializeToString(), timeout=options.pop("timeout", 20), **options)
        return message_class(f"inference.{answer or method + 'Response'}").FromString(raw)

    async def infer(self, request: Any | None = None, **options: Any) -> Any:
        return await self.call("ModelInfer", infer_request() if request is None else request, **options)

    async def raw(self, data: bytes, path: str = INFER, **options: Any) -> bytes:
        answer: bytes = await self.channel.unary_unary(path)(data, timeout=20, **options)
        return answer

    async def refused(self, request: Any = None, method: str = "ModelInfer", **options: Any) -> tuple[str, str]:
        """(status, details) of a call that fails."""
        try:
            if isinstance(request, bytes):
                answer: Any = await self.raw(request, **options)
            else:
                answer = await self.call(method, request, **options)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"answered: {answer!r}")


@contextlib.asynccontextmanager
async def stub(running: Running, credentials: Any = None, **options: Any) -> AsyncIterator[Stub]:
    """A client of this gateway."""
    address = f"127.0.0.1:{running.gateway.grpc_port}"
    settings = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), *options.items()]
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=settings)
    else:
        channel = grpc.aio.secure_channel(f"localhost:{running.gateway.grpc_port}", credentials, options=settings)
    async with channel:
        yield Stub(channel)
