"""How to reach the brokers, and the requests that aiokafka lacks or has only in an older version.

Decided here: which of aiokafka's errors is `TooLarge`, `NotFound` or `Unavailable` (`translated`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from aiokafka import errors
from aiokafka.helpers import create_ssl_context

from protocol import frames
from protocol.errors import ConfigError, FleetError, NotFound, TooLarge, Unavailable
from protocol.transport.kafka.aiokafka_internals import (
    AIOKafkaClient,
    Array,
    ConnectionGroup,
    CoordinationType,
    Int16,
    Int32,
    MetadataRequest,
    Request,
    RequestStruct,
    Response,
    Schema,
    String,
    add_error,
    for_code,
    keep_passwords_out_of_logs,
)
from protocol.transport.settings import TransportSettings

MAX_BATCH: Final = frames.MAX_RECORD + 1024 * 1024
"""Bytes of a batch: the largest record with its headers. The topics' `max.message.bytes`."""
REQUEST_TIMEOUT: Final = 10.0
RETRY_BACKOFF: Final = 0.1

_PASSED: Final = frozenset({"security_protocol", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password"})
_FILES: Final = {"ssl_cafile": "cafile", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}


keep_passwords_out_of_logs()


class FencedInstanceIdError(errors.BrokerResponseError):  # type: ignore[misc]
    """Another process has joined with this `group.instance.id`."""

    errno = 82
    message = "FENCED_INSTANCE_ID"
    description = "Another member has taken over this group.instance.id"


add_error(FencedInstanceIdError)


def connection_options(settings: TransportSettings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes.

    Raises:
        ConfigError: an unknown security option, or certificates that cannot be read.
    """
    security = settings.kafka_security
    if unknown := sorted(security.keys() - _PASSED - _FILES.keys()):
        raise ConfigError(f"Kafka's security has no option {', '.join(unknown)}; the options are {_known()}")
    options: dict[str, Any] = {name: value for name, value in security.items() if name in _PASSED}
    options["bootstrap_servers"] = settings.kafka
    options["request_timeout_ms"] = int(REQUEST_TIMEOUT * 1000)
    options["retry_backoff_ms"] = int(RETRY_BACKOFF * 1000)
    if security.get("security_protocol", "PLAINTEXT").endswith("SSL"):
        try:
            files = {argument: security[name] for name, argument in _FILES.items() if name in security}
            options["ssl_context"] = create_ssl_context(**files)
        except OSError as exc:
            raise ConfigError(f"the certificates of Kafka's security cannot be read: {exc}") from None
    return options


def _known() -> str:
    return ", ".join(sorted(_PASSED | _FILES.keys()))


def translated(error: BaseException, where: str) -> FleetError:
    """aiokafka's error as one of ours.

    Args:
        error: a `KafkaError`, `OSError` or `TimeoutError`.
        where: what was being done, and with which broker or topic.
    """
    if isinstance(error, errors.NodeNotReadyError):
        return Unavailable(f"{where}: no broker can be reached")
    said = str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        return TooLarge(f"{where}: the broker accepts no record batch of this size (max.message.bytes)")
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return NotFound(f"{where}: there is no such topic or partition")
    return Unavailable(f"{where}: {said}")


async def partition_count(client: AIOKafkaClient, topic: str) -> int:
    """How many partitions the topic has, by a broker's metadata; 0 if there is no such topic. Never creates one.

    Raises:
        KafkaError: no broker answers, or access to the topic is denied.
    """
    node = client.get_random_node()
    response = await client.send(node, MetadataRequest([topic], allow_auto_topic_creation=False))
    for error_code, name, *_, partitions in response.topics:
        error = for_code(error_code)
        if name == topic and error is errors.NoError:
            return len(partitions)
        if error not in (errors.UnknownTopicOrPartitionError, errors.LeaderNotAvailableError, errors.NoError):
            raise error(topic)
    return 0


# --- LeaveGroup by group.instance.id (KIP-345, version 3; aiokafka has versions 0 and 1) ---


class LeaveGroupResponse_v3(Response):  # type: ignore[misc]  # noqa: D101, N801
    API_KEY = 13
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "members",
            Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")), ("error_code", Int16)),
        ),
    )


class LeaveGroupRequest_v3(RequestStruct):  # type: ignore[misc]  # noqa: D101, N801
    API_KEY = 13
    API_VERSION = 3
    RESPONSE_TYPE = LeaveGroupResponse_v3
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("members", Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")))),
    )


_Struct: TypeAlias = LeaveGroupRequest_v3


class LeaveGroup(Request[_Struct]):  # type: ignore[misc]
    """Removes members from a classic group, on their behalf."""

    API_KEY = 13

    def __init__(self, group: str, members: Sequence[tuple[str, str]]) -> None:
        self._group = group
        self._members = list(members)

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        """The request in the version that the broker speaks."""
        return request_struct_class(self._group, self._members)


NO_MEMBER: Final = ""
_NOT_THERE: Final = (errors.UnknownMemberIdError, errors.GroupIdNotFound, FencedInstanceIdError)


async def leave_group(client: AIOKafkaClient, group: str, members: Sequence[str], member: str = NO_MEMBER) -> None:
    """Send LeaveGroup for static members to the group's coordinator; a member that has already left is not an error.

    Args:
        client: any client of the cluster.
        group: of the members.
        members: their `group.instance.id`s.
        member: the member id that they must have; by default any holder of the `group.instance.id` is removed.

    Raises:
        KafkaError: the coordinator cannot be reached, or refuses.
    """
    coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
    request = LeaveGroup(group, [(member, instance) for instance in members])
    response = await client.send(coordinator, request, group=ConnectionGroup.COORDINATION)
    codes = [response.error_code, *(code for _, _, code in response.members)]
    for code in codes:
        error = for_code(code)
        if error is not errors.NoError and error not in _NOT_THERE:
            raise error(group)


def consumer_limits(settings: TransportSettings) -> Mapping[str, Any]:
    """Options of all consumers: a record of any allowed size fits, and available data is returned at once."""
    return {
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "fetch_max_wait_ms": int(settings.fetch_max_wait * 1000),
        "fetch_max_bytes": MAX_BATCH,
        "max_partition_fetch_bytes": MAX_BATCH,
        # How often the fetch loop wakes without a reason; at the default of 0.2 s, half of an idle consumer's wake-ups.
        "consumer_timeout_ms": 1000,
    }
