"""The calls that are measured: the same tensors as a binary V2 body over HTTP and as a `ModelInferRequest` over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from loadtest import payloads
from loadtest.doors.h2load import Unary
from loadtest.models import ALL, BenchModel
from loadtest.payloads import Array, Pool
from protocol.errors import FleetError
from protocol.proto import message_class

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_MOST: Final = 1 << 28
"""Bytes of a message that the checking call takes."""

Reference = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def pool_of(model: BenchModel, reference: Reference) -> Pool:
    """Binary bodies of a model, with their answers."""
    return payloads.build_binary(model.inputs, model.outputs, reference, count=4)


def message_of(model: str, pool: Pool, twin: str) -> bytes:
    """The pool's first request as a gRPC message for `model`, whose tensors are those of `twin`."""
    message: Any = message_class("inference.ModelInferRequest")(model_name=model)
    for spec in ALL[twin].inputs:
        entry = message.inputs.add()
        entry.name, entry.datatype = spec.name, spec.datatype
        entry.shape.extend(spec.shape)
        message.raw_input_contents.append(pool.inputs[0][spec.name].tobytes())
    return bytes(message.SerializeToString())


def unary(port: int, model: str, pool: Pool, twin: str) -> Unary:
    """The call, once the server has answered it rightly.

    Raises:
        FleetError: it answered wrongly, or not at all.
    """
    import grpc

    message = message_of(model, pool, twin)
    options = [("grpc.max_receive_message_length", _MOST), ("grpc.max_send_message_length", _MOST)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        call = channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)
        try:
            raw = call(message, timeout=30.0)
        except grpc.RpcError as error:
            raise FleetError(f"{model} over gRPC: {error}") from None
    answer: Any = message_class("inference.ModelInferResponse").FromString(raw)
    tensors = dict(zip([output.name for output in answer.outputs], answer.raw_output_contents, strict=True))
    if b"".join(tensors[name] for name in ALL[twin].outputs) != pool.tails[0]:
        raise FleetError(f"{model} over gRPC answered wrongly: {answer.outputs}")
    return Unary(port, METHOD, message, len(raw) + 5)
