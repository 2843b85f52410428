"""Building V2 requests and reading V2 answers, without I/O: shared by both clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from protocol import v2
from protocol.errors import Code, CodecError, FleetError
from protocol.messages import Parameters
from protocol.tensors import Array, Tensor, from_array

_CODES: Final[dict[int, Code]] = {
    400: Code.INVALID_ARGUMENT, 401: Code.UNAUTHENTICATED, 404: Code.NOT_FOUND, 410: Code.GONE, 413: Code.TOO_LARGE,
    422: Code.KEY_REUSED, 429: Code.EXHAUSTED, 499: Code.CANCELLED, 501: Code.UNSUPPORTED, 503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}  # fmt: skip
"""Codes for answers that name none: from a proxy or another server."""
_NAMES: Final = frozenset(Code)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to make."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class InferResult:
    """An answer.

    Attributes:
        outputs: arrays by name; BYTES are object arrays of `bytes`, BF16 is its 16 bits.
        request_id: the fleet's id of the request, for logs and support.
        timing: the `Penstock-Timing` header as sent.
        datatypes: V2 datatypes of the outputs.
    """

    model: str
    version: str
    outputs: dict[str, Array]
    parameters: Parameters
    label: str = ""
    request_id: str = ""
    timing: str = ""
    datatypes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """An accepted asynchronous request: its answer is at `location`, on any gateway."""

    location: str
    request_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class InferOptions:
    """Options of an inference; see `Client.infer`."""

    version: str = ""
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str = ""
    timeout: float | None = None
    idempotency_key: str = ""


def infer(
    model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], options: InferOptions, *, wait: bool = True
) -> Request:
    """The request for one inference, tensors as binary.

    Raises:
        CodecError: an input's dtype has no V2 datatype.
    """
    tensors = [
        value if isinstance(value, Tensor) else from_array(name, np.asarray(value)) for name, value in inputs.items()
    ]
    head: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": len(tensor.data)},
            }
            for tensor in tensors
        ],
        "parameters": {"binary_data_output": True, **options.parameters},
    }
    if options.label:
        head["id"] = options.label
    if options.outputs:
        head["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in options.outputs]
    encoded = orjson.dumps(head)
    headers = {"Inference-Header-Content-Length": str(len(encoded)), "Content-Type": "application/octet-stream"}
    if options.timeout is not None:
        headers["Penstock-Timeout-Ms"] = str(round(options.timeout * 1000))
    if options.idempotency_key:
        headers["Idempotency-Key"] = options.idempotency_key
    if not wait:
        headers["Prefer"] = "respond-async"
    version = f"/versions/{options.version}" if options.version else ""
    path = f"/v2/models/{_quote(model)}{version}/infer"
    return Request("POST", path, headers, b"".join([encoded, *(tensor.data for tensor in tensors)]))


def _quote(model: str) -> str:
    from urllib.parse import quote

    return quote(model, safe="")


def check(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise the gateway's error, if the answer is one.

    Raises:
        FleetError: with the code that the gateway names, else that of the status, and the gateway's text.
    """
    if status < 400:
        return
    try:
        message = str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = body[:500].decode(errors="replace") or f"HTTP status {status}"
    after = headers.get("retry-after", "")
    retry_after = float(after) if after.replace(".", "", 1).isdigit() else None
    named = headers.get("penstock-error", "")
    code = Code(named) if named in _NAMES else _CODES.get(status, Code.INTERNAL)
    raise FleetError(message, code=code, retry_after=retry_after)


def result(headers: Mapping[str, str], body: bytes) -> InferResult:
    """The answer of an infer call.

    Raises:
        CodecError: the body is not a V2 response.
    """
    length = headers.get("inference-header-content-length")
    size = int(length) if length else len(body)
    try:
        head = orjson.loads(body[:size])
        outputs, datatypes, position = {}, {}, size
        for entry in head["outputs"]:
            tensor, position = _output(entry, body, position)
            outputs[tensor.name], datatypes[tensor.name] = tensor.array(), tensor.datatype
        return InferResult(
            head["model_name"], head["model_version"], outputs, head.get("parameters", {}), head.get("id", ""),
            headers.get("penstock-request-id", ""), headers.get("penstock-timing", ""), datatypes,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as exc:
        raise CodecError(f"the gateway's answer is not a V2 response: {exc!r}") from None


def _output(entry: dict[str, Any], body: bytes, position: int) -> tuple[Tensor, int]:
    """One output and where the next one's bytes begin."""
    if "data" in entry:
        request = orjson.dumps({"inputs": [entry]})
        return v2.parse_json_body(request).inputs[0], position
    size = entry["parameters"]["binary_data_size"]
    data = memoryview(body)[position : position + size]
    return Tensor(entry["name"], entry["datatype"], tuple(entry["shape"]), data), position + size


def pending(headers: Mapping[str, str]) -> Pending:
    """The handle of an accepted asynchronous request."""
    return Pending(headers["location"], headers.get("penstock-request-id", ""))
