"""Plays calls over gRPC, with messages as bytes, so that bad ones can be sent."""

from __future__ import annotations

import functools
from typing import Any

import grpc
from google.protobuf import json_format

from protocol.proto import message_class, pool
from tests.triton.case import UNANSWERED, Answer, RpcCase

TIMEOUT_S = 10.0
SERVICE = "inference.GRPCInferenceService"


@functools.cache
def channel(target: str) -> Any:
    return grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)])


def play_rpc(target: str, case: RpcCase) -> Answer:
    """The server's answer to one call."""
    path = f"/{SERVICE}/{case.rpc}"
    if case.rpc == "ModelStreamInfer":
        return _play_stream(channel(target).stream_stream(path), case)
    try:
        body, call = channel(target).unary_unary(path).with_call(case.messages[0], TIMEOUT_S, case.metadata)
    except grpc.RpcError as error:
        return _failed(error)
    document, raw = _document(f"{case.rpc}Response", body)
    return Answer(0, document, raw, _metadata(call))


def _play_stream(method: Any, case: RpcCase) -> Answer:
    call = method(iter(case.messages), TIMEOUT_S, case.metadata)
    heard, raws = [], []
    try:
        for body in call:
            document, raw = _document("ModelStreamInferResponse", body)
            heard.append(document)
            raws.append(raw)
    except grpc.RpcError as error:
        failed = _failed(error)
        return Answer(failed.status, {"heard": heard, **failed.body}, " ".join(raws), failed.headers)
    return Answer(0, {"heard": heard}, " ".join(raws), _metadata(call))


def _failed(error: Any) -> Answer:
    code, details = error.code().value[0], error.details()
    if details.startswith("Deadline Exceeded") or "Socket closed" in details:
        return UNANSWERED
    return Answer(code, {"error": details}, "", _metadata(error))


def _metadata(call: Any) -> dict[str, str]:
    """What the server says beside the message; ours is left out: it is more than Triton says."""
    pairs = [*(call.initial_metadata() or ()), *(call.trailing_metadata() or ())]
    return {key: str(value) for key, value in pairs if not key.startswith("penstock-") and key != "retry-after"}


def _document(name: str, body: bytes) -> tuple[Any, str]:
    message: Any = message_class(f"inference.{name}").FromString(body)
    response = message.infer_response if name == "ModelStreamInferResponse" else message
    raw = ""
    if "raw_output_contents" in response.DESCRIPTOR.fields_by_name:
        raw = "|".join(item.hex() for item in response.raw_output_contents)
        response.ClearField("raw_output_contents")
    if name == "ModelConfigResponse" and not message.config.max_batch_size:
        message.config.ClearField("max_batch_size")  # 0 and nothing are one to clients; our file alone tells them apart
    document = json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool())
    return document, raw
