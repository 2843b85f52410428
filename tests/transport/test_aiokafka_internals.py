"""Each private name of aiokafka that is used: which one a new version lacks."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from protocol.transport.kafka import aiokafka_exchange, aiokafka_fetch, aiokafka_internals, aiokafka_produce
from tests.transport.internals import assigned, foreign_private_names, imported_from, stored_or_defined

ROOT = Path(__file__).parents[2]
MODULES = (aiokafka_exchange, aiokafka_fetch, aiokafka_internals, aiokafka_produce)
"""Those that may use private names."""
DOCUMENTED = {"aiokafka", "aiokafka.abc", "aiokafka.admin", "aiokafka.errors", "aiokafka.helpers", "aiokafka.structs"}
UNDOCUMENTED_FUNCTIONS = {"for_code", "kafka_errors"}

ATTRIBUTES = [
    ("aiokafka.consumer.consumer.AIOKafkaConsumer", "_client"),
    ("aiokafka.consumer.consumer.AIOKafkaConsumer", "_coordinator"),
    ("aiokafka.consumer.consumer.AIOKafkaConsumer", "_fetcher"),
    ("aiokafka.consumer.consumer.AIOKafkaConsumer", "_subscription"),
    ("aiokafka.consumer.group_coordinator.GroupCoordinator", "member_id"),
    ("aiokafka.consumer.group_coordinator.GroupCoordinator", "check_errors"),
    ("aiokafka.consumer.group_coordinator.GroupCoordinator", "fetch_committed_offsets"),
    ("aiokafka.consumer.group_coordinator.GroupCoordinator", "_coordination_task"),
    ("aiokafka.consumer.group_coordinator.GroupCoordinator", "_do_heartbeat"),
    ("aiokafka.consumer.group_coordinator.GroupCoordinator", "_rejoin_needed_fut"),
    ("aiokafka.consumer.subscription_state.SubscriptionState", "subscription"),
    ("aiokafka.consumer.subscription_state.Subscription", "assignment"),
    ("aiokafka.consumer.subscription_state.Assignment", "state_value"),
    ("aiokafka.consumer.subscription_state.TopicPartitionState", "position"),
    ("aiokafka.consumer.subscription_state.TopicPartitionState", "has_valid_position"),
    ("aiokafka.consumer.fetcher.Fetcher", "error_future"),
    ("aiokafka.consumer.fetcher.Fetcher", "_in_flight"),
    ("aiokafka.consumer.fetcher.Fetcher", "_notify"),
    ("aiokafka.consumer.fetcher.Fetcher", "_wait_consume_future"),
    ("aiokafka.consumer.fetcher.Fetcher", "_proc_fetch_request"),
    ("aiokafka.consumer.fetcher.PartitionRecords", "next_fetch_offset"),
    ("aiokafka.consumer.fetcher.PartitionRecords", "_tp"),
    ("aiokafka.consumer.fetcher.PartitionRecords", "_records"),
    ("aiokafka.consumer.fetcher.PartitionRecords", "_unpack_records"),
    ("aiokafka.consumer.fetcher.PartitionRecords", "_consumer_record"),
    ("aiokafka.producer.producer.AIOKafkaProducer", "client"),
    ("aiokafka.producer.producer.AIOKafkaProducer", "_message_accumulator"),
    ("aiokafka.producer.producer.AIOKafkaProducer", "_sender"),
    ("aiokafka.producer.message_accumulator.MessageAccumulator", "fail_all"),
    ("aiokafka.producer.sender.Sender", "close"),
    ("aiokafka.client.AIOKafkaClient", "cluster"),
    ("aiokafka.client.AIOKafkaClient", "coordinator_lookup"),
    ("aiokafka.client.AIOKafkaClient", "force_metadata_update"),
    ("aiokafka.client.AIOKafkaClient", "get_random_node"),
    ("aiokafka.client.AIOKafkaClient", "send"),
    ("aiokafka.client.AIOKafkaClient", "_conns"),
    ("aiokafka.client.AIOKafkaClient", "_get_conn"),
    ("aiokafka.client.AIOKafkaClient", "_get_conn_lock"),
    ("aiokafka.cluster.ClusterMetadata", "add_listener"),
    ("aiokafka.cluster.ClusterMetadata", "brokers"),
    ("aiokafka.cluster.ClusterMetadata", "leader_for_partition"),
    ("aiokafka.cluster.ClusterMetadata", "partitions_for_topic"),
    ("aiokafka.conn.AIOKafkaConnection", "close"),
    ("aiokafka.conn.AIOKafkaConnection", "connected"),
    ("aiokafka.conn.AIOKafkaConnection", "_requests"),
    ("aiokafka.conn.AIOKafkaConnection", "_client_id"),
    ("aiokafka.conn.AIOKafkaConnection", "_handle_frame"),
    ("aiokafka.conn.AIOKafkaConnection", "_loop"),
    ("aiokafka.conn.AIOKafkaConnection", "_next_correlation_id"),
    ("aiokafka.conn.AIOKafkaConnection", "_request_timeout"),
    ("aiokafka.conn.AIOKafkaConnection", "_versions"),
    ("aiokafka.conn.AIOKafkaConnection", "_writer"),
    ("aiokafka.consumer.fetcher.Fetcher", "_check_crcs"),
    ("aiokafka.consumer.fetcher.Fetcher", "_client"),
    ("aiokafka.consumer.fetcher.Fetcher", "_create_fetch_waiter"),
    ("aiokafka.consumer.fetcher.Fetcher", "_fetch_max_bytes"),
    ("aiokafka.consumer.fetcher.Fetcher", "_fetch_max_wait_ms"),
    ("aiokafka.consumer.fetcher.Fetcher", "_fetch_min_bytes"),
    ("aiokafka.consumer.fetcher.Fetcher", "_fetch_waiters"),
    ("aiokafka.consumer.fetcher.Fetcher", "_isolation_level"),
    ("aiokafka.consumer.fetcher.Fetcher", "_max_partition_fetch_bytes"),
    ("aiokafka.consumer.fetcher.Fetcher", "_prefetch_backoff"),
    ("aiokafka.consumer.fetcher.Fetcher", "_records"),
    ("aiokafka.consumer.fetcher.Fetcher", "_select_read_replica"),
    ("aiokafka.consumer.fetcher.Fetcher", "_subscriptions"),
    ("aiokafka.consumer.fetcher.FetchResult", "getall"),
    ("aiokafka.consumer.fetcher.FetchResult", "has_more"),
    ("aiokafka.consumer.fetcher.FetchError", "check_raise"),
    ("aiokafka.consumer.subscription_state.Assignment", "active"),
    ("aiokafka.consumer.subscription_state.Assignment", "tps"),
    ("aiokafka.consumer.subscription_state.SubscriptionState", "fetch_context"),
    ("aiokafka.consumer.subscription_state.SubscriptionState", "reassignment_in_progress"),
    ("aiokafka.consumer.subscription_state.TopicPartitionState", "highwater"),
    ("aiokafka.consumer.subscription_state.TopicPartitionState", "lso"),
    ("aiokafka.consumer.subscription_state.TopicPartitionState", "paused"),
    ("aiokafka.consumer.subscription_state.TopicPartitionState", "timestamp"),
    ("aiokafka.producer.message_accumulator.MessageAccumulator", "_batch_ttl"),
    ("aiokafka.producer.message_accumulator.MessageAccumulator", "_batches"),
    ("aiokafka.producer.message_accumulator.MessageAccumulator", "_closed"),
    ("aiokafka.producer.message_accumulator.MessageAccumulator", "_exception"),
    ("aiokafka.producer.message_accumulator.MessageAccumulator", "_pop_batch"),
    ("aiokafka.producer.message_accumulator.MessageAccumulator", "_wakeup"),
    ("aiokafka.producer.message_accumulator.MessageAccumulator", "waiter"),
    ("aiokafka.producer.message_accumulator.MessageBatch", "done"),
    ("aiokafka.producer.message_accumulator.MessageBatch", "get_data_buffer"),
    ("aiokafka.producer.producer.AIOKafkaProducer", "_request_timeout_ms"),
    ("aiokafka.producer.sender.SendProduceReqHandler", "_client"),
    ("aiokafka.producer.sender.SendProduceReqHandler", "do"),
    ("aiokafka.producer.sender.Sender", "_in_flight"),
    ("aiokafka.producer.sender.Sender", "_muted_partitions"),
]
IMPORTED = sorted(set().union(*(imported_from(module, "aiokafka") for module in MODULES)) - {("aiokafka", "errors")})


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES, ids=lambda text: text.rpartition(".")[2])
def test_an_attribute_is_still_there(owner: str, name: str) -> None:
    module, _, kind = owner.rpartition(".")
    assert name in stored_or_defined(getattr(importlib.import_module(module), kind)), f"{owner} has no {name} any more"


@pytest.mark.parametrize(("module", "name"), IMPORTED, ids=lambda text: text.rpartition(".")[2])
def test_an_import_is_still_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), f"{module} has no {name} any more"


@pytest.mark.parametrize("name", ["MemoryRecords", "PartitionRecords"])
def test_a_fetch_is_still_decoded_by(name: str) -> None:
    fetcher = importlib.import_module("aiokafka.consumer.fetcher")
    assert name in fetcher.Fetcher._proc_fetch_request.__code__.co_names


@pytest.mark.parametrize("name", ["kafka_errors"])
def test_a_table_is_still_there(name: str) -> None:
    assert isinstance(getattr(importlib.import_module("aiokafka.errors"), name), dict)


def test_the_requests_that_carry_passwords_still_have_their_names() -> None:
    admin = importlib.import_module("aiokafka.protocol.admin")
    assert any(name.startswith("SaslAuthenticate") for name in vars(admin))


def test_every_private_name_that_is_used_has_a_test() -> None:
    used = set().union(*map(foreign_private_names, MODULES))
    assert used <= {name for _, name in ATTRIBUTES}


@pytest.mark.parametrize("package", ["protocol", "gateway", "workers", "penstock", "loadtest", "infra"])
def test_nobody_else_uses_what_is_not_documented(package: str) -> None:
    allowed = {Path(str(module.__file__)) for module in MODULES}
    found = []
    for file in (ROOT / package).rglob("*.py"):
        if file in allowed:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aiokafka":
                names = {alias.name for alias in node.names}
                if node.module not in DOCUMENTED or names & UNDOCUMENTED_FUNCTIONS:
                    found.append(f"{file.relative_to(ROOT)}: {node.module}")
        if package == "protocol" and "kafka" in file.parts:
            private = {name for _, name in ATTRIBUTES if name.startswith("_")} - assigned(file)
            found += [f"{file.relative_to(ROOT)}: {name}" for name in private if f".{name}" in file.read_text()]
    assert found == []
