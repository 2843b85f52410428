"""Answers as records of a results topic: written from what the store keeps, and read back. Pure.

A record is a function of the stored payload and the request alone, so that an answer that is published twice has the same bytes,
and the topic can be compacted. Its key is the request's ref (`naming.ref`); its partition is the one that Kafka's own clients
choose for that key. The value is the stored reply, or the V2 response body if the request asks for JSON.

Invariant: every payload of the store gives a record of at most `MAX_RECORD` bytes, and any record gives an answer or `CodecError`.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from protocol import v2
from protocol.codec import JSON, MSGPACK, decode_reply, encode_reply
from protocol.errors import Code, CodecError, quoted
from protocol.frames import MAX_RECORD
from protocol.messages import Failure, InferReply, InferRequest
from protocol.naming import ref
from protocol.ports import OutRecord, Record
from protocol.tensors import Buffer

ID: Final = "id"
CONTENT_TYPE: Final = "content-type"
MODEL: Final = "model"
VERSION: Final = "version"
ERROR: Final = "error"
"""Only of a failure: its code."""

_SEED: Final = 0x9747B28C
_FACTOR: Final = 0x5BD1E995
_WORD: Final = 0xFFFFFFFF


# --- writing ---


def encode_answer(payload: bytes, request: InferRequest) -> OutRecord:
    """The record of an answer. One that JSON cannot express, or that is too large for a record, becomes a failure.

    Args:
        payload: what the store has (`codec.encode_reply`).
        request: gives the key, the id and the wanted content type.
    """
    try:
        reply = decode_reply(payload)
    except CodecError as error:
        reply = InferReply(request.model, request.version, request.label)
        return _failed(reply, request, Failure(Code.INTERNAL, f"the stored answer cannot be read: {error.message}"))
    try:
        value = response_body(reply) if wants_json(request) else payload
    except CodecError as error:
        text = f"the answer has no JSON form: {error.message}. The header 'accept: {MSGPACK.decode()}' asks for the other form"
        return _failed(reply, request, Failure(Code.INVALID_ARGUMENT, text))
    if len(value) > MAX_RECORD:
        return too_large(reply, request, len(value), f"a record may have {MAX_RECORD}")
    return _record(value, reply, request)


def too_large(reply: InferReply, request: InferRequest, size: int, limit: str) -> OutRecord:
    """The record that says that an answer is too large for its topic.

    Args:
        reply: the answer.
        request: as in `encode_answer`.
        size: bytes of the answer's record.
        limit: says what is allowed.
    """
    text = f"the answer has {size} bytes; {limit}. Send fewer rows in a record"
    return _failed(reply, request, Failure(Code.TOO_LARGE, text))


def wants_json(request: InferRequest) -> bool:
    """Whether the answer is to be JSON; msgpack is the default."""
    return request.accept == JSON.decode()


def response_body(reply: InferReply) -> bytes:
    """The V2 response body of a reply: the outputs, or `error` and `code`.

    Raises:
        CodecError: JSON cannot express an output.
    """
    failure = reply.failure
    if failure is None:
        body = v2.encode_response(reply.model, reply.version, reply.label, reply.parameters, reply.outputs, frozenset())
        return bytes(body.parts[0])
    fields: dict[str, Any] = {"error": failure.message, "code": failure.code.value}
    fields |= {"model_name": reply.model, "model_version": reply.version}
    if reply.label:
        fields["id"] = reply.label
    return orjson.dumps(fields)


def _failed(reply: InferReply, request: InferRequest, failure: Failure) -> OutRecord:
    """A failure in place of a reply, with its label and times."""
    changed = InferReply(request.model, request.version, reply.label, failure=failure, timing=reply.timing)
    return _record(response_body(changed) if wants_json(request) else encode_reply(changed), changed, request)


def _record(value: bytes, reply: InferReply, request: InferRequest) -> OutRecord:
    headers: list[tuple[str, bytes | None]] = [
        (ID, request.id.encode()),
        (CONTENT_TYPE, JSON if wants_json(request) else MSGPACK),
        (MODEL, request.model.encode()),
        (VERSION, request.version.encode()),
    ]
    if reply.failure is not None:
        headers.append((ERROR, reply.failure.code.value.encode()))
    return OutRecord(value, headers, ref(request.principal, request.id).encode())


# --- reading ---


def decode_answer(record: Record) -> tuple[str, InferReply]:
    """The id of a request and its answer; JSON carries no times.

    Raises:
        CodecError: it is not an answer.
    """
    if record.problem:
        raise CodecError(record.problem)
    fields = dict(record.headers)
    try:
        request_id = (fields.get(ID) or b"").decode()
    except UnicodeDecodeError:
        raise CodecError(f"header '{ID}' is not UTF-8") from None
    if not request_id:
        raise CodecError(f"the record is not an answer: it has no header '{ID}'")
    kind = fields.get(CONTENT_TYPE) or MSGPACK
    if kind == MSGPACK:
        return request_id, decode_reply(record.value)
    if kind != JSON:
        raise CodecError(
            f"header '{CONTENT_TYPE}' must be {JSON.decode()} or {MSGPACK.decode()}, not {quoted(kind[:64])}"
        )
    return request_id, parse_response_body(record.value)


def parse_response_body(body: Buffer) -> InferReply:
    """The inverse of `response_body`.

    Raises:
        CodecError: it is not a V2 response.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise CodecError(f"an answer is not JSON: {exc}") from None
    if type(fields) is not dict:
        raise CodecError("an answer must be a JSON object")
    texts = [fields.get(name, "") for name in ("model_name", "model_version", "id")]
    if not all(type(text) is str for text in texts):
        raise CodecError("an answer's 'model_name', 'model_version' and 'id' must be strings")
    reply = InferReply(*texts)
    if "error" in fields:
        try:
            reply.failure = Failure(Code(str(fields.get("code"))), str(fields["error"]))
        except ValueError:
            raise CodecError(f"an answer has the unknown error code {quoted(fields.get('code'))}") from None
    else:
        reply.outputs = v2.parse_outputs(fields.get("outputs"))
        reply.parameters = v2.check_parameters(fields.get("parameters", {}), "the answer")
    return reply


# --- partitions ---


def partition_of(key: bytes, count: int) -> int:
    """The partition of a key among `count`, as the default partitioner of Kafka's Java client chooses it."""
    return 0 if count == 1 else (murmur2(key) & 0x7FFFFFFF) % count


def murmur2(key: bytes) -> int:
    """Kafka's hash of a key, as an unsigned 32-bit number."""
    size = len(key)
    whole = size & ~3
    mixed = (_SEED ^ size) & _WORD
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * _FACTOR & _WORD
        word = (word ^ word >> 24) * _FACTOR & _WORD
        mixed = (mixed * _FACTOR & _WORD) ^ word
    if size > whole:
        mixed = (mixed ^ int.from_bytes(key[whole:], "little")) * _FACTOR & _WORD
    mixed = (mixed ^ mixed >> 13) * _FACTOR & _WORD
    return mixed ^ mixed >> 15
