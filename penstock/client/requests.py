"""Building V2 requests and reading V2 answers, without I/O: shared by both clients."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import orjson

from penstock.client.timing import Times, parse_timing
from protocol import v2
from protocol.errors import Code, CodecError, FleetError, InvalidArgument, quoted
from protocol.messages import Lane, Parameters
from protocol.tensors import Array, Tensor, from_array

_CODES: Final[dict[int, Code]] = {
    400: Code.INVALID_ARGUMENT, 401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED, 404: Code.NOT_FOUND, 410: Code.GONE,
    413: Code.TOO_LARGE,
    422: Code.KEY_REUSED, 429: Code.EXHAUSTED, 499: Code.CANCELLED, 501: Code.UNSUPPORTED, 503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}  # fmt: skip
"""Codes for answers that name none: from a proxy or another server."""
_NAMES: Final = frozenset(Code)
_TIMEOUT: Final = "Penstock-Timeout-Ms"
_HEADS: Final = 256
_MAX_SHOWN: Final = 500
_HEAD_BYTES: Final = 1024
"""At most `_HEADS` heads of at most this size are remembered, of requests and of answers."""
_FEW: Final = 8
"""Tensors of a request whose head is remembered."""
_LANES: Final = tuple(lane.value for lane in Lane)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request to make.

    Attributes:
        method: HTTP's, or the name of an RPC.
        path: percent-encoded, with a query; for an RPC, where HTTP has the same document, or "".
        headers: HTTP's; over gRPC they are metadata.
        body: HTTP's, or the RPC's message.
        repeatable: whether it may run twice without harm: it only reads, or it is keyed.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    repeatable: bool = False

    def within(self, seconds: float) -> Request:
        """The same request with this time left; only for one that has a time."""
        if _TIMEOUT not in self.headers:
            return self
        return dataclasses.replace(self, headers={**self.headers, _TIMEOUT: _milliseconds(seconds)})


@dataclasses.dataclass(frozen=True, slots=True)
class InferResult:
    """An answer.

    Attributes:
        outputs: arrays by name; BYTES are object arrays of `bytes`, BF16 is its 16 bits.
        request_id: the fleet's id of the request, for logs and support.
        timing: the `Penstock-Timing` header as sent; "" if nothing is known.
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

    @property
    def times(self) -> Times:
        """`timing` as numbers, in seconds; what is not known is None."""
        return parse_timing(self.timing)


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """An accepted asynchronous request: its answer is at `location`, on any gateway.

    Attributes:
        answered: the answer itself, if its idempotency key had been answered before.
    """

    location: str
    request_id: str
    answered: InferResult | None = None


class Options(TypedDict, total=False):
    """Keyword arguments of an inference; see `Client.infer`."""

    version: str
    outputs: Sequence[str]
    parameters: Mapping[str, Any]
    label: str
    timeout: float | None
    idempotency_key: str
    lane: str


@dataclasses.dataclass(frozen=True, slots=True)
class InferOptions:
    """Options of an inference; see `Client.infer`."""

    version: str = ""
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str = ""
    timeout: float | None = None
    idempotency_key: str = ""
    lane: str = Lane.INTERACTIVE

    def __post_init__(self) -> None:
        if self.lane not in _LANES:
            raise InvalidArgument(f"lane must be {' or '.join(_LANES)}, not {quoted(self.lane)}")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise InvalidArgument(f"timeout must be a positive number of seconds, not {self.timeout}")


def infer(
    model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], options: InferOptions, *, wait: bool = True
) -> Request:
    """The request for one inference, tensors as binary.

    Raises:
        CodecError: an input's dtype has no V2 datatype.
    """
    tensors = [tensor_of(name, value) for name, value in inputs.items()]
    shown = tuple([(tensor.name, tensor.datatype, tensor.shape, len(tensor.data)) for tensor in tensors])
    if options.label or options.parameters or len(shown) > _FEW:
        encoded = _head(shown, tuple(options.outputs), options.label, options.parameters)
    else:
        encoded = _plain_head(shown, tuple(options.outputs))
    headers = {"Inference-Header-Content-Length": str(len(encoded)), "Content-Type": "application/octet-stream"}
    headers |= option_headers(options)
    if options.timeout is not None:
        headers[_TIMEOUT] = _milliseconds(options.timeout)
    if not wait:
        headers["Prefer"] = "respond-async"
    body = b"".join([encoded, *[tensor.data for tensor in tensors]])
    return Request("POST", _path(model, options.version), headers, body, bool(options.idempotency_key))


def option_headers(options: InferOptions) -> dict[str, str]:
    """The options that are headers over HTTP and metadata over gRPC."""
    headers = {}
    if options.lane != Lane.INTERACTIVE:
        headers["Penstock-Lane"] = options.lane
    if options.idempotency_key:
        headers["Idempotency-Key"] = options.idempotency_key
    return headers


_Shown = tuple[tuple[str, str, tuple[int, ...], int], ...]
"""Name, datatype, shape and bytes of each tensor."""


def _head(inputs: _Shown, outputs: tuple[str, ...], label: str, parameters: Mapping[str, Any]) -> bytes:
    """The JSON in front of the tensors' bytes."""
    head: dict[str, Any] = {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
            for name, datatype, shape, size in inputs
        ],
        "parameters": {"binary_data_output": True, **parameters},
    }
    if label:
        head["id"] = label
    if outputs:
        head["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    try:
        return orjson.dumps(head)
    except TypeError as error:  # of orjson: a caller's value
        raise InvalidArgument(f"the request cannot be written as JSON: {error}") from None


@functools.lru_cache(_HEADS)
def _plain_head(inputs: _Shown, outputs: tuple[str, ...]) -> bytes:
    return _head(inputs, outputs, "", {})


def tensor_of(name: str, value: npt.ArrayLike | Tensor) -> Tensor:
    """An input as a tensor, which may share the array's memory.

    Raises:
        CodecError: it is not an array, or its dtype has no V2 datatype.
    """
    if isinstance(value, Tensor):
        return Tensor(value.name, value.datatype, _whole(value), value.data)
    try:
        return from_array(name, np.asarray(value))
    except CodecError as error:
        raise CodecError(f"input '{name}': {error.message}") from None
    except (ValueError, OverflowError) as error:  # lists of different lengths, text with a surrogate
        raise CodecError(f"input '{name}' is not an array: {error}") from None


def _whole(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's shape as integers: 1.0 and True equal 1, and would be remembered in its place."""
    try:
        return tuple([int(operator.index(size)) for size in tensor.shape])
    except TypeError:
        raise CodecError(
            f"input '{tensor.name}': a shape has whole numbers, not {quoted(list(tensor.shape))}"
        ) from None


@functools.lru_cache(_HEADS)
def _path(model: str, version: str) -> str:
    return f"{model_path(model, version)}/infer"


def model_path(model: str, version: str = "", root: str = "/v2/models") -> str:
    """The path of a model, or of one of its versions.

    Raises:
        InvalidArgument: no model can have this name, for which a server would have no route.
    """
    if not model or "/" in model:
        raise InvalidArgument(f"a model's name is not empty and has no slash, unlike {quoted(model)}")
    versions = f"/versions/{_quoted(version, '')}" if version else ""
    return f"{root}/{_quoted(model, '')}{versions}"


def _quoted(text: str, safe: str) -> str:
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError:
        raise InvalidArgument(f"{quoted(text)} is not valid Unicode") from None


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def keyed(options: Options) -> Options:
    """The options with a fresh idempotency key, unless there is one: a submission may then be repeated."""
    return options if options.get("idempotency_key") else {**options, "idempotency_key": uuid.uuid4().hex}


def get(path: str) -> Request:
    """The request for a JSON document.

    Raises:
        InvalidArgument: the path does not begin with a slash.
    """
    if not path.startswith("/"):
        raise InvalidArgument(f"a path begins with '/', not {quoted(path)}")
    return Request("GET", _quoted(path, "/?&=%:@!$'()*+,;~"), {}, b"", True)


def change(method: str, path: str, document: Any) -> Request:
    """The request that sends a JSON document; None sends no body. It is not made again when it fails.

    Raises:
        InvalidArgument: the path does not begin with a slash.
    """
    body = b"" if document is None else orjson.dumps(document)
    return dataclasses.replace(
        get(path), method=method, body=body, headers={"Content-Type": "application/json"}, repeatable=False
    )


def fetch(pending: Pending, wait: float) -> Request:
    """The request for a submitted request's answer, which the gateway holds for `wait` seconds until it is ready."""
    asked = get(f"{pending.location}?wait_s={wait:g}")
    return dataclasses.replace(asked, headers={"Accept": "application/octet-stream"})


def cancel(pending: Pending) -> Request:
    """The request that cancels a submitted request."""
    return dataclasses.replace(get(pending.location), method="DELETE")


def load(model: str, parameters: Mapping[str, Any]) -> Request:
    """The request that loads a model; a repeated one changes nothing more."""
    return _repository(model, "load", parameters)


def unload(model: str) -> Request:
    """The request that unloads a model."""
    return _repository(model, "unload", {})


def _repository(model: str, verb: str, parameters: Mapping[str, Any]) -> Request:
    body = orjson.dumps({"parameters": dict(parameters)})
    path = f"{model_path(model, root='/v2/repository/models')}/{verb}"
    return Request("POST", path, {"Content-Type": "application/json"}, body, True)


READY: Final = Request("GET", "/v2/health/ready", {}, b"", True)
"""Asks whether the gateway accepts requests."""
INDEX: Final = Request("POST", "/v2/repository/index", {}, b"", True)
"""The request for the repository index."""


def check(status: int, headers: Mapping[str, str], body: bytes, server: str = "the server") -> None:
    """Raise the gateway's error, if the answer is one.

    Args:
        server: its URL.

    Raises:
        FleetError: with the code that the gateway names, else that of the status, and the gateway's text.
    """
    if status < 300:
        return
    if status < 400:
        raise InvalidArgument(f"the server sends its callers elsewhere: use {quoted(headers.get('location', '?'))}")
    try:
        message = str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        said = body[:_MAX_SHOWN].decode(errors="replace").strip()
        message = f"{server} answers with HTTP status {status}, and not as a gateway does; is it one?" + (
            f" It says: {quoted(said)}" if said else ""
        )
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
    try:
        size = int(length) if length else len(body)
        head = _known(body[:size]) if length and size <= _HEAD_BYTES else orjson.loads(body[:size])
        outputs, datatypes, position = {}, {}, size
        for entry in head["outputs"]:
            tensor, position = _output(entry, body, position)
            outputs[tensor.name], datatypes[tensor.name] = tensor.array(), tensor.datatype
        return InferResult(
            head["model_name"], head["model_version"], outputs, dict(head.get("parameters", ())), head.get("id", ""),
            headers.get("penstock-request-id", ""), headers.get("penstock-timing", ""), datatypes,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CodecError(f"the gateway's answer is not a V2 response: {exc!r}") from None


@functools.lru_cache(_HEADS)
def _known(head: bytes) -> Any:
    """The parsed head of an answer with binary outputs, which repeats while shapes do; nobody changes it."""
    return orjson.loads(head)


def _output(entry: dict[str, Any], body: bytes, position: int) -> tuple[Tensor, int]:
    """One output and where the next one's bytes begin."""
    if "data" in entry:
        request = orjson.dumps({"inputs": [entry]})
        return v2.parse_json_body(request).inputs[0], position
    size = entry["parameters"]["binary_data_size"]
    data = memoryview(body)[position : position + size]
    return Tensor(entry["name"], entry["datatype"], tuple(entry["shape"]), data), position + size


def pending(headers: Mapping[str, str], body: bytes) -> Pending:
    """The handle of an accepted asynchronous request.

    Raises:
        CodecError: the answer has none.
    """
    if "location" not in headers and "penstock-request-id" in headers:
        answered = result(headers, body)
        return Pending(f"/v2/requests/{quote(answered.request_id, safe='')}", answered.request_id, answered)
    if "location" not in headers:
        raise CodecError("the answer to an asynchronous request has no 'location': the server is not a gateway")
    return Pending(headers["location"], headers.get("penstock-request-id", ""))


def document(url: str, body: bytes) -> Any:
    """A JSON answer.

    Args:
        url: of the gateway, for the error.
        body: the answer's.

    Raises:
        InvalidArgument: it is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        start = body[:40].decode(errors="replace")
        raise InvalidArgument(f"{url} is not answered by a gateway: its answer begins with {start!r}") from None
