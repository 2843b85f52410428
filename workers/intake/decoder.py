"""Records to entries: decode, name, check against the model. Pure, except that it remembers known channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.codec import JSON, MSGPACK, decode_request, fields_text, is_json, plausible
from protocol.errors import CodecError, FleetError, InvalidArgument
from protocol.messages import ANONYMOUS, Failure, InferRequest, Lane
from protocol.naming import Names, ref
from protocol.ports import Record
from protocol.tensors import MAX_ELEMENTS, Buffer
from workers.instances.job import Entry
from workers.repository.signature import Signature

MAX_CHANNELS: Final = 4096


class RecordDecoder:
    """Decodes one model version's records.

    Args:
        names: under the fleet's prefix.
        signature: of the model version.
        model, version: whose topic it is.
        lane: of the topic.
    """

    def __init__(
        self, names: Names, signature: Signature, model: str, version: str, lane: Lane = Lane.INTERACTIVE
    ) -> None:
        self.model = model
        self.version = version
        self.topic = names.request_topic(model, version, lane)
        self._names = names
        self._signature = signature
        self._channels = {""}

    def decode_record(self, record: Record, token: int, fetched: float, most: int = MAX_ELEMENTS) -> Entry:
        """The entry of a record, with `problem` set if the model cannot take it.

        Raises:
            ManyElements: it has more than `most` BYTES elements.
            CodecError, InvalidArgument: it is not a request, or has an impossible id.
        """
        if record.problem:
            raise CodecError(record.problem)
        request = record.request
        if request is None:
            request = self._decode_bytes(record, most)
        problem, rows, shape_class = None, 1, ""
        try:
            shape = self._signature.check_request(request)
            rows, shape_class, request = shape.rows, shape.shape_class, self._signature.in_order(request, shape)
        except InvalidArgument as exc:
            problem = Failure(exc.code, exc.message)
        return Entry(
            ref(request.principal, request.id), rows, shape_class, request, fetched, request.published, request.priority,
            request.deadline, request.timeout, record.size, record.partition, record.offset, token, fetched,
            request.claimed, problem, record=record,
        )  # fmt: skip

    def _decode_bytes(self, record: Record, most: int) -> InferRequest:
        request = decode_request(
            record.value,
            record.headers,
            model=self.model,
            version=self.version,
            default_id="",
            timestamp=record.timestamp,
            most=most,
        )
        if not request.id:
            request.id = _default_id(record)
        if request.reply_to not in self._channels:
            self._check_channel(request)
        return request

    def sender_of(self, record: Record, token: int, now: float) -> Entry | None:
        """An entry with which to answer the sender of an undecodable record; None if its id cannot be read."""
        fields = dict(record.headers)
        try:
            name = fields_text(fields, "id") or ("" if record.problem else _default_id(record))
            request = InferRequest(name, self.model, self.version, ())
            request.principal = fields_text(fields, "principal") or ANONYMOUS
            name = ref(request.principal, request.id)
        except FleetError:
            return None
        request.reply_to, request.accept = _reply_to(fields), _accept(fields, record.value)
        request.accepted = request.published = plausible(record.timestamp)
        self._check_channel(request)
        return Entry(
            name, 1, "", request, now, request.published, partition=record.partition, offset=record.offset, token=token,
            fetched=now,
        )  # fmt: skip

    def _check_channel(self, request: InferRequest) -> None:
        """Drop a reply-to that is neither a channel of our gateways nor a topic of answers."""
        channel = request.reply_to
        if not self._names.is_reply_to(channel) and not self._names.reply_topic(channel):
            request.reply_to = ""
        elif len(self._channels) < MAX_CHANNELS:
            self._channels.add(channel)


def _reply_to(fields: Mapping[str, bytes | None]) -> str:
    """The header `reply-to` of an undecodable record, whose fault it may be; "" then."""
    try:
        return fields_text(fields, "reply-to")
    except CodecError:
        return ""


def _accept(fields: Mapping[str, bytes | None], value: Buffer) -> str:
    """The content type of the answer to an undecodable record: the wanted one, if that can be read, or the record's own."""
    if fields.get("accept") in (JSON, MSGPACK):
        return fields_text(fields, "accept")
    return (JSON if is_json(fields.get("content-type"), value) else MSGPACK).decode()


def _default_id(record: Record) -> str:
    """The id of a request without one; the time stamp is part of it because a topic can be deleted and created again."""
    return f"{record.topic}-{record.partition}-{record.offset}-{round(record.timestamp * 1000)}"
