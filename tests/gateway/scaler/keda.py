"""A client of the scaler, as KEDA is one: a real gRPC channel, our own message classes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from protocol.proto import message_class

SERVICE = "/externalscaler.ExternalScaler"


def kind(name: str) -> Any:
    return message_class(f"externalscaler.{name}")


def ref(models: str = "add", **metadata: str) -> Any:
    """A ScaledObjectRef, with what KEDA adds to the metadata."""
    return kind("ScaledObjectRef")(
        name="workers", namespace="ml", scalerMetadata={"models": models, "scalerAddress": "scaler:6000", **metadata}
    )


class Keda:
    """Calls the five methods."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def call(self, method: str, request: Any, answer: str) -> Any:
        send = self.channel.unary_unary(f"{SERVICE}/{method}")
        return kind(answer).FromString(await send(request.SerializeToString(), timeout=20))

    async def is_active(self, asked: Any) -> bool:
        return bool((await self.call("IsActive", asked, "IsActiveResponse")).result)

    async def spec(self, asked: Any) -> Any:
        (spec,) = (await self.call("GetMetricSpec", asked, "GetMetricSpecResponse")).metricSpecs
        return spec

    async def metric(self, asked: Any, name: str = "penstock-workers") -> float:
        request = kind("GetMetricsRequest")(scaledObjectRef=asked, metricName=name)
        (value,) = (await self.call("GetMetrics", request, "GetMetricsResponse")).metricValues
        assert value.metricValue == value.metricValueFloat
        return float(value.metricValueFloat)

    def stream(self, method: str, asked: Any) -> Any:
        return self.channel.unary_stream(f"{SERVICE}/{method}")(asked.SerializeToString(), timeout=120)

    async def next_active(self, stream: Any, within: float = 30.0) -> bool:
        """The next push of a stream of StreamIsActive."""
        raw = await asyncio.wait_for(stream.read(), within)
        assert raw is not grpc.aio.EOF
        return bool(kind("IsActiveResponse").FromString(raw).result)


@contextlib.asynccontextmanager
async def keda(port: int) -> AsyncIterator[Keda]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield Keda(channel)
