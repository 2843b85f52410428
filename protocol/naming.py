"""Names of topics, groups, keys and channels: built and parsed here and nowhere else. Pure.

Kafka allows `[a-zA-Z0-9._-]{1,249}` and treats `.` and `_` as equal when it looks for collisions, so a model name keeps letters,
digits and `_`; every other byte of its UTF-8 becomes `-XX` (hexadecimal), and `-` becomes `--`. The mapping is reversible, and two
models never collide, even if `.` equals `_`: a version is only digits, and is always the last part.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final
from urllib.parse import quote

from protocol.errors import InvalidArgument, quoted
from protocol.messages import ANONYMOUS, Lane

PREFIX: Final = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
_VERSION: Final = re.compile(r"[0-9]{1,19}\Z")
_ESCAPE: Final = re.compile(rb"-(-|[0-9A-F]{2})?")
_KEPT: Final = re.compile(rb"[^a-zA-Z0-9_]")
_SAFE: Final = "~.:"
_RESULTS: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}\Z")
_TOPIC_SCHEME: Final = "kafka:"
MAX_TOPIC: Final = 249
_KINDS: Final = {Lane.INTERACTIVE: "infer", Lane.BATCH: "batch"}
"""The part of a topic's name that says its lane."""
MAX_ID: Final = 256
"""Characters of a fleet id or a principal; both are part of a Redis key."""


def encode_model(model: str) -> str:
    """The model's name as a part of a topic name.

    Raises:
        InvalidArgument: the name is empty or not valid Unicode.
    """
    if not model:
        raise InvalidArgument("a model name must not be empty")
    try:
        raw = model.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"model name {quoted(model)} is not valid Unicode") from None
    return _KEPT.sub(lambda m: b"--" if m[0] == b"-" else b"-%02X" % m[0][0], raw).decode()


def decode_model(part: str) -> str:
    """The inverse of `encode_model`.

    Raises:
        InvalidArgument: no model name encodes to this.
    """

    def byte(match: re.Match[bytes]) -> bytes:
        escape: bytes | None = match[1]
        if escape is None:
            raise InvalidArgument(f"{quoted(part)} is not an encoded model name")
        return b"-" if escape == b"-" else bytes([int(escape, 16)])

    try:
        model = _ESCAPE.sub(byte, part.encode()).decode()
    except UnicodeDecodeError:
        raise InvalidArgument(f"{quoted(part)} is not an encoded model name") from None
    if encode_model(model) != part:
        raise InvalidArgument(f"{quoted(part)} is not an encoded model name")
    return model


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """All names under one prefix, so that several fleets share a broker and a store.

    Raises:
        InvalidArgument: the prefix is not `[a-z][a-z0-9-]{0,30}`.
    """

    prefix: str = "penstock"

    def __post_init__(self) -> None:
        if not PREFIX.match(self.prefix):
            raise InvalidArgument(f"prefix {quoted(self.prefix)} must match [a-z][a-z0-9-]{{0,30}}")

    def infer_topic(self, model: str, version: str) -> str:
        """The topic of interactive requests for a model version; also the name of its consumer group."""
        return self.request_topic(model, version)

    def batch_topic(self, model: str, version: str) -> str:
        """The topic of batch requests for a model version; also the name of its consumer group. It is created at first use."""
        return self.request_topic(model, version, Lane.BATCH)

    def request_topic(self, model: str, version: str, lane: Lane = Lane.INTERACTIVE) -> str:
        """The topic of a model version's requests in one lane; also the name of its consumer group.

        Raises:
            InvalidArgument: the version is not a number, or the model's name is too long.
        """
        if not _VERSION.match(version):
            raise InvalidArgument(f"model version {quoted(version)} must be a decimal number of at most 19 digits")
        topic = f"{self.prefix}.{_KINDS[lane]}.{encode_model(model)}.{version}"
        if len(topic) > MAX_TOPIC:
            raise InvalidArgument(
                f"model name {quoted(model)} is too long: its Kafka topic {topic[:40]}… has {len(topic)} characters of {MAX_TOPIC}"
            )
        return topic

    def parse_request_topic(self, topic: str) -> tuple[Lane, str, str]:
        """(lane, model, version) of a topic of requests.

        Raises:
            InvalidArgument: it is not a topic of requests.
        """
        for lane, kind in _KINDS.items():
            head = f"{self.prefix}.{kind}."
            model, dot, version = topic.removeprefix(head).rpartition(".")
            if topic.startswith(head) and dot and _VERSION.match(version):
                return lane, decode_model(model), version
        raise InvalidArgument(f"{quoted(topic)} is not a topic of requests of prefix {quoted(self.prefix)}")

    def results_topic(self, name: str) -> str:
        """A topic of answers.

        Raises:
            InvalidArgument: the name is not 1 to 128 letters, digits, dashes and underscores.
        """
        if not _RESULTS.match(name):
            raise InvalidArgument(
                f"results name {quoted(name)} must be 1 to 128 letters, digits, dashes and underscores"
            )
        return f"{self.prefix}.results.{name}"

    def reply_to_topic(self, name: str) -> str:
        """The `reply-to` header that sends answers to `results_topic(name)`."""
        return f"{_TOPIC_SCHEME}{self.results_topic(name)}"

    def reply_topic(self, reply_to: str) -> str:
        """The topic of answers that a `reply-to` header names; "" if it names none of ours."""
        head = f"{_TOPIC_SCHEME}{self.prefix}.results."
        if not reply_to.startswith(head) or not _RESULTS.match(reply_to.removeprefix(head)):
            return ""
        return reply_to.removeprefix(_TOPIC_SCHEME)

    def dead_topic(self, model: str) -> str:
        """The topic of a model's dead letters."""
        return f"{self.prefix}.dead.{encode_model(model)}"

    @property
    def catalogue_topic(self) -> str:
        """The compacted topic of announcements, keyed by `model/version`."""
        return f"{self.prefix}.models"

    @property
    def control_topic(self) -> str:
        """The compacted topic of the models' desired state (see `protocol.control`)."""
        return f"{self.prefix}.control"

    def result_key(self, ref: str) -> str:
        """The Redis stream of one request (see `ref`)."""
        return f"{self.prefix}:result:{ref}"

    def totals_key(self, model: str, version: str) -> str:
        """The Redis hash of a model version's totals; `:recent` behind it is the list of those not yet added to the hash."""
        return f"{self.prefix}:totals:{encode_model(model)}:{version}"

    def gateway_channel(self, gateway: str) -> str:
        """The publish/subscribe channel on which a gateway is woken."""
        return f"{self.prefix}:gateway:{gateway}"

    def is_reply_to(self, channel: str) -> bool:
        """Whether a `reply-to` header names the channel of one of our gateways; any other is ignored."""
        head = f"{self.prefix}:gateway:"
        return channel.startswith(head) and PREFIX.match(channel.removeprefix(head)) is not None

    def cancel_channel(self, topic: str) -> str:
        """The channel of cancellations for a topic's workers."""
        return f"{self.prefix}:cancel:{topic}"

    @property
    def rebalance_channel(self) -> str:
        """The channel of rebalance hints, for the members of all groups."""
        return f"{self.prefix}:rebalances"

    @property
    def asks_channel(self) -> str:
        """The channel of asks for a heartbeat at once."""
        return f"{self.prefix}:asks"

    @property
    def pulses_key(self) -> str:
        """The Redis hash worker id -> sign of life."""
        return f"{self.prefix}:pulses"

    @property
    def descriptions_key(self) -> str:
        """The Redis hash worker id -> what rarely changes in its heartbeat."""
        return f"{self.prefix}:descriptions"

    @property
    def loads_key(self) -> str:
        """The Redis hash worker id -> the numbers in its heartbeat that have changed since its description was written."""
        return f"{self.prefix}:loads"

    def answer_key(self, worker: str) -> str:
        """The Redis string with a worker's last answer to an ask."""
        return f"{self.prefix}:answer:{worker}"

    @property
    def waiting_channel(self) -> str:
        """The channel of hints that a request was accepted on a topic without a live worker."""
        return f"{self.prefix}:waiting"

    @property
    def workers_key(self) -> str:
        """The Redis hash worker id -> heartbeat of wire version 1; empty once no process of that version is left."""
        return f"{self.prefix}:workers"


def names_topic(reply_to: str) -> bool:
    """Whether a `reply-to` that was accepted (`Names.reply_topic`) names a topic of answers rather than a channel."""
    return reply_to.startswith(_TOPIC_SCHEME)


def ref(principal: str, request_id: str) -> str:
    """The name of a request everywhere: `<id>` for the anonymous principal, `<principal>/<id>` for any other.

    Both parts are percent-encoded, so that refs of two principals never collide.

    Raises:
        InvalidArgument: a part is empty or longer than `MAX_ID`.
    """
    if not 0 < len(request_id) <= MAX_ID or not 0 < len(principal) <= MAX_ID:
        raise InvalidArgument(f"a request id and a principal must have 1 to {MAX_ID} characters")
    if principal == ANONYMOUS:
        return request_id if request_id.isalnum() and request_id.isascii() else quote(request_id, safe=_SAFE)
    return f"{quote(principal, safe=_SAFE)}/{quote(request_id, safe=_SAFE)}"
