"""The V2 protocol over gRPC: requests and answers as bytes of its messages, without I/O and without grpcio.

Tensors are not touched: their bytes stand behind the message's other fields, as `raw_input_contents`, and those of an answer are
views of it. What surrounds them is remembered while shapes repeat, as over HTTP.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import numpy as np
from google.protobuf.message import DecodeError, Message

from penstock.client import requests
from penstock.client.exchange import Answered
from penstock.client.requests import InferOptions, InferResult, Pending, Request
from penstock.client.wires import Inputs
from protocol.errors import CodecError, InvalidArgument, Unsupported, quoted
from protocol.messages import Parameters
from protocol.proto import message_class
from protocol.tensors import ITEM_SIZE, NUMPY_DTYPE, Array, Tensor

_HEADS: Final = 256
_HEAD_BYTES: Final = 1024
_RAW_INPUT: Final = b"\x3a"
"""The tag of `ModelInferRequest.raw_input_contents`: field 7, with a length."""
_RAW_OUTPUT: Final = 6
"""The number of `ModelInferResponse.raw_output_contents`."""
_LENGTH_DELIMITED: Final = 2
_MOST_INT64: Final = 2**63 - 1
_MODEL: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/config|/stats)?/?\Z")
_CONTENTS: Final = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Where servers that send no raw contents put an output's values."""
_RPCS: Final = {"": "ModelMetadata", "/config": "ModelConfig", "/stats": "ModelStatistics"}


class RpcWire:
    """Calls over gRPC.

    Args:
        url: of the gateway, for errors.
    """

    slack = 0.0
    """The deadline travels with the call: the gateway keeps it too."""

    def __init__(self, url: str) -> None:
        self._url = url

    def infer(self, model: str, inputs: Inputs, options: InferOptions, *, wait: bool = True) -> Request:
        """See `requests.infer`; the request's path is empty, and its method is the RPC.

        Raises:
            CodecError: an input's dtype has no V2 datatype.
            InvalidArgument: a parameter is neither text, nor a boolean, nor a number.
            Unsupported: the caller does not wait.
        """
        if not wait:
            raise self._only_http("submit")
        tensors = [requests.tensor_of(name, value) for name, value in inputs.items()]
        shown = tuple([(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors])
        place = (model, options.version, shown, tuple(options.outputs))
        small = not options.label and not options.parameters
        parts: list[bytes | memoryview] = [
            _plain_head(*place) if small else _head(*place, options.label, options.parameters)
        ]
        for tensor in tensors:
            parts += [_RAW_INPUT + _varint(len(tensor.data)), tensor.data]
        headers = requests.option_headers(options)
        return Request("ModelInfer", "", headers, b"".join(parts), bool(options.idempotency_key))

    def fetch(self, pending: Pending, wait: float) -> Request:
        """Raises `Unsupported`."""
        raise self._only_http("result")

    def cancel(self, pending: Pending) -> Request:
        """Raises `Unsupported`."""
        raise self._only_http("cancel")

    def _only_http(self, method: str) -> Unsupported:
        return Unsupported(f"'{method}' is not part of the gRPC protocol; make a client of the gateway's http:// URL")

    def get(self, path: str) -> Request:
        """The RPC whose answer is the JSON document at an HTTP path.

        Raises:
            Unsupported: there is none.
        """
        if path.rstrip("/") == "/v2":
            return Request("ServerMetadata", path, {}, b"", True)
        if path == "/v2/models/stats":
            return Request("ModelStatistics", path, {}, b"", True)
        found = _MODEL.match(path)
        if found is None or "?" in path:  # no RPC has a query's parameters
            known = "/v2, /v2/models/stats, and a model's or version's metadata, /config and /stats"
            raise Unsupported(
                f"no RPC answers {quoted(path)}: over gRPC there are {known}; ask the gateway's http:// URL"
            )
        name, version, kind = found.groups()
        rpc = _RPCS[kind or ""]
        asked = message_class(f"inference.{rpc}Request")(name=unquote(name), version=unquote(version or ""))
        return Request(rpc, path, {}, asked.SerializeToString(), True)

    def change(self, method: str, path: str, document: Any) -> Request:
        """Raises `Unsupported`."""
        raise self._only_http("send")

    def index(self) -> Request:
        """See `Wire`."""
        return Request("RepositoryIndex", "/v2/repository/index", {}, b"", True)

    def ready(self) -> Request:
        """See `Wire`."""
        return Request("ServerReady", "", {}, b"", True)

    def result(self, answered: Answered) -> InferResult:
        """The answer of an inference: its arrays are views of the message.

        Raises:
            CodecError: it is not a V2 response.
        """
        body = answered.body
        try:
            head, raw = _split(body)
            message = _known(head) if len(head) <= _HEAD_BYTES else _response(head)
            if raw and len(raw) != len(message.outputs):
                raise CodecError(f"{len(message.outputs)} outputs have {len(raw)} raw contents")
            view = memoryview(body)
            outputs, datatypes = {}, {}
            for number, entry in enumerate(message.outputs):
                outputs[entry.name] = _array(entry, view[slice(*raw[number])] if raw else None)
                datatypes[entry.name] = entry.datatype
        except (CodecError, DecodeError, ValueError, OverflowError, KeyError, IndexError) as error:
            raise CodecError(f"the answer of {self._url} is not a V2 response: {error!r}") from None
        return InferResult(
            message.model_name, message.model_version, outputs, _parameters(message), message.id,
            answered.headers.get("penstock-request-id", ""), answered.headers.get("penstock-timing", ""), datatypes,
        )  # fmt: skip

    def pending(self, answered: Answered) -> Pending:
        """Raises `Unsupported`."""
        raise self._only_http("submit")

    def document(self, request: Request, answered: Answered) -> Any:
        """The answer as the JSON that HTTP has at this path."""
        message = self._decoded(f"{request.method}Response", answered)
        document = as_json(message)
        if request.method == "ModelConfig":
            return document["config"]
        return document["models"] if request.method == "RepositoryIndex" else document

    def is_ready(self, answered: Answered) -> bool:
        """See `Wire`."""
        ready: bool = self._decoded("ServerReadyResponse", answered).ready
        return ready

    def _decoded(self, name: str, answered: Answered) -> Any:
        try:
            return message_class(f"inference.{name}").FromString(answered.body)
        except DecodeError as error:
            raise InvalidArgument(f"{self._url} is not answered by a gateway: {error}") from None


_Shown = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, datatype and shape of each tensor."""


def _head(
    model: str, version: str, inputs: _Shown, outputs: tuple[str, ...], label: str, parameters: Mapping[str, Any]
) -> bytes:
    """The message without its tensors' bytes."""
    try:
        message: Any = message_class("inference.ModelInferRequest")(model_name=model, model_version=version, id=label)
        for name, datatype, shape in inputs:
            message.inputs.add(name=name, datatype=datatype, shape=shape)
        for name in outputs:
            message.outputs.add(name=name)
        for key, value in parameters.items():
            _set(message.parameters[key], key, value)
        encoded: bytes = message.SerializeToString()
    except (
        ValueError,
        TypeError,
    ) as error:  # of protobuf: text with a surrogate, a size beyond 64 bits, a name that is none
        raise InvalidArgument(f"the request cannot be written as a message: {error}") from None
    return encoded


@functools.lru_cache(_HEADS)
def _plain_head(model: str, version: str, inputs: _Shown, outputs: tuple[str, ...]) -> bytes:
    return _head(model, version, inputs, outputs, "", {})


def _set(parameter: Any, key: str, value: object) -> None:
    """Set an `InferParameter`."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        if value > _MOST_INT64:
            parameter.uint64_param = value
        else:
            parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    else:
        raise TypeError(f"parameter {quoted(key)} must be text, a number or a boolean, not {quoted(value)}")


def _parameters(message: Any) -> Parameters:
    found = {key: (value, value.WhichOneof("parameter_choice")) for key, value in message.parameters.items()}
    return {key: getattr(value, kind) for key, (value, kind) in found.items() if kind}


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _split(body: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """A response without its raw contents, and from where to where each of these stands in it.

    Raises:
        CodecError: it is not a message.
    """
    head, raw, position = [], [], 0
    while position < len(body):
        begin = position
        tag, position = _read_varint(body, position)
        if tag & 7 != _LENGTH_DELIMITED:  # every field of the message has a length
            raise CodecError(f"byte {begin} begins a field of an unknown kind")
        size, position = _read_varint(body, position)
        end = position + size
        if end > len(body):
            raise CodecError(f"the field at byte {begin} ends {end - len(body)} bytes behind the message")
        if tag >> 3 == _RAW_OUTPUT:
            raw.append((position, end))
        else:
            head.append(body[begin:end])
        position = end
    return b"".join(head), raw


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for shift in range(0, 64, 7):
        if position >= len(body):
            raise CodecError("the message is cut")
        byte = body[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # the highest bit says that more follows
            return number, position
    raise CodecError("a number has more than 64 bits")


def _response(head: bytes) -> Any:
    return message_class("inference.ModelInferResponse").FromString(head)


@functools.lru_cache(_HEADS)
def _known(head: bytes) -> Any:
    """The parsed head of an answer, which repeats while shapes do; nobody changes it."""
    return _response(head)


def _array(entry: Any, raw: memoryview | None) -> Array:
    if entry.datatype not in ITEM_SIZE:
        raise CodecError(f"output {quoted(entry.name)} has the unknown datatype {quoted(entry.datatype)}")
    if raw is not None:
        return Tensor(entry.name, entry.datatype, tuple(entry.shape), raw).array()
    if entry.datatype not in _CONTENTS:
        raise CodecError(f"output {quoted(entry.name)} of {entry.datatype} has no raw contents")
    values = getattr(entry.contents, _CONTENTS[entry.datatype])
    return np.array(values, NUMPY_DTYPE[entry.datatype]).reshape(tuple(entry.shape))


def as_json(message: Message) -> dict[str, Any]:
    """A message as the document that HTTP answers: every field with its own name, integers as numbers, enums by name.

    Fields of a `oneof`, and messages, that are not set are left out.
    """
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            inner = entry.fields_by_name["value"]
            document[field.name] = {str(key): _plain(inner, value[key]) for key in sorted(value)}
        elif _repeated(field):
            document[field.name] = [_plain(field, item) for item in value]
        else:
            document[field.name] = _plain(field, value)
    return document


def _repeated(field: Any) -> bool:
    """Whether a field is a list; protobuf 7 has no label any more, and protobuf 5 no `is_repeated`."""
    known: bool | None = getattr(field, "is_repeated", None)
    return field.label == field.LABEL_REPEATED if known is None else known


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
