"""What a request that is played is, and how the parts of most are written."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

Json = dict[str, Any]
LENGTH = "Inference-Header-Content-Length"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One request.

    Attributes:
        name: says what is special of it; unique.
    """

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.

    Attributes:
        body: the JSON of the body; the text where it is not JSON. NaN and the infinities become their names.
        binary: the bytes behind the JSON, as hex.
    """

    status: int
    body: Any
    binary: str = ""


UNANSWERED = Answer(0, "no answer")


def get(name: str, path: str) -> Case:
    return Case(name, "GET", path)


def infer(name: str, model: str, body: object, *headers: tuple[str, str]) -> Case:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Case(name, "POST", f"/v2/models/{model}/infer", content, headers)


def tensor(name: str, datatype: str = "INT32", shape: object = (1, 2), data: object = (1, 2), **more: Any) -> Json:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


def two(**more: Any) -> Json:
    return {"inputs": [tensor("A"), tensor("B")], **more}
