"""What a request that is played is, and how the parts of most are written."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from protocol.proto import message_class

Json = dict[str, Any]
LENGTH = "Inference-Header-Content-Length"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One request over HTTP.

    Attributes:
        name: says what is special of it; unique.
        method: HTTP's; or METRICS for the metrics of the model `path`.
    """

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class RpcCase:
    """One call over gRPC.

    Attributes:
        name: as of `Case`; begins with "rpc: ".
        rpc: its name, without the service's.
        messages: one; or those of a stream.
    """

    name: str
    rpc: str
    messages: tuple[bytes, ...] = (b"",)
    metadata: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.

    Attributes:
        status: HTTP's or gRPC's number.
        body: the JSON of the body, or of the message; the text where it is none. NaN and the infinities become their names.
        binary: the bytes behind the JSON, or the raw contents one after the other, as hex.
        headers: those that clients read, and metadata.
    """

    status: int
    body: Any
    binary: str = ""
    headers: Json = dataclasses.field(default_factory=dict)


UNANSWERED = Answer(0, "no answer")


def get(name: str, path: str, *headers: tuple[str, str]) -> Case:
    return Case(name, "GET", path, b"", headers)


def post(name: str, path: str, body: object = b"", *headers: tuple[str, str]) -> Case:
    return Case(name, "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


def metrics(name: str, model: str) -> Case:
    return Case(name, "METRICS", model)


def infer(name: str, model: str, body: object, *headers: tuple[str, str]) -> Case:
    return post(name, f"/v2/models/{model}/infer", body, *headers)


def tensor(name: str, datatype: str = "INT32", shape: object = (1, 2), data: object = (1, 2), **more: Any) -> Json:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


def two(**more: Any) -> Json:
    return {"inputs": [tensor("A"), tensor("B")], **more}


# --- over gRPC ---


def rpc(name: str, method: str, /, *metadata: tuple[str, str], **fields: Any) -> RpcCase:
    """A call whose message has these fields."""
    return RpcCase(f"rpc: {name}", method, (message(f"{method}Request", **fields),), metadata)


def rpc_infer(name: str, model: str, inputs: list[Json], /, *raw: bytes, **fields: Any) -> RpcCase:
    return rpc(name, "ModelInfer", model_name=model, inputs=inputs, raw_input_contents=list(raw), **fields)


def stream(name: str, *requests: Json, metadata: tuple[tuple[str, str], ...] = ()) -> RpcCase:
    """Calls on one stream."""
    messages = tuple(message("ModelInferRequest", **request) for request in requests)
    return RpcCase(f"rpc: {name}", "ModelStreamInfer", messages, metadata)


def described(name: str, datatype: str = "INT32", shape: tuple[int, ...] = (1, 2), **more: Any) -> Json:
    """An input of a message, without its values."""
    return {"name": name, "datatype": datatype, "shape": list(shape), **more}


def message(kind: str, /, **fields: Any) -> bytes:
    """A message of the package `inference`, of plain values."""
    made = message_class(f"inference.{kind}")()
    _fill(made, fields)
    return made.SerializeToString()


def _fill(target: Any, fields: Json) -> None:
    for name, value in fields.items():
        field = target.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, dict) and field.message_type.GetOptions().map_entry:
            for key, item in value.items():
                _fill(getattr(target, name)[key], item)
        elif isinstance(value, dict):
            getattr(target, name).SetInParent()
            _fill(getattr(target, name), value)
        elif isinstance(value, list) and field.message_type is not None:
            for item in value:
                _fill(getattr(target, name).add(), item)
        elif isinstance(value, list):
            getattr(target, name).extend(value)
        else:
            setattr(target, name, value)
