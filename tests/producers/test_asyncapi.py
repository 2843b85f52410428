"""docs/asyncapi.yaml is a valid AsyncAPI 3 document, names all that protocol/README.md does, and describes real records."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from jsonschema import Draft7Validator

from protocol import dead_letter
from protocol.codec import encode_request
from protocol.errors import Code
from protocol.messages import InferRequest
from protocol.naming import Names
from protocol.tensors import ITEM_SIZE, from_array
from tests.integration.fleet import Fleet, fleet
from tests.integration.repositories import ADD, write_model

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text())
WIRE = (ROOT / "protocol" / "README.md").read_text()
SCHEMAS = DOCUMENT["components"]["schemas"]
JSON, MSGPACK = "application/json", "application/msgpack"


def section(title: str) -> str:
    """A section of protocol/README.md."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", WIRE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def names_in(text: str) -> set[str]:
    """The names in the first column of a section's table of headers."""
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def validate(message: str, part: str, value: object) -> None:
    """Check a part of a real message against the document's schema for it."""
    schema = DOCUMENT["components"]["messages"][message][part]
    validator = Draft7Validator({**schema, "components": DOCUMENT["components"]})
    errors = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(value)]
    assert not errors, f"{message}'s {part}: {errors}"


def test_it_is_an_asyncapi_3_document() -> None:
    schema = json.loads(gzip.decompress((Path(__file__).parent / "asyncapi-3.0.0.json.gz").read_bytes()))
    errors = [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}"
        for e in Draft7Validator(schema).iter_errors(DOCUMENT)
    ]
    assert errors == []
    assert not Draft7Validator(schema).is_valid({**DOCUMENT, "channels": {"request": {"address": 5}}})


def test_every_reference_in_it_leads_somewhere() -> None:
    def walk(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    for reference in walk(DOCUMENT):
        node: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            node = node[name]


def test_it_has_every_topic_that_producers_meet() -> None:
    topics = re.findall(r"\| `<prefix>\.(infer|batch|results|dead)\.([^`]+)` \|", section("Names (`naming.py`)"))
    wanted = {f"penstock.{kind}.{rest}".replace("<", "{").replace(">", "}") for kind, rest in topics}
    assert {channel["address"] for channel in DOCUMENT["channels"].values()} == wanted


def test_it_has_every_header_of_the_wire_and_no_other() -> None:
    assert set(SCHEMAS["requestHeaders"]["properties"]) == names_in(section("A request (Kafka record)"))
    assert set(SCHEMAS["answerHeaders"]["properties"]) == names_in(section("An answer (Kafka record)"))
    dead = set(SCHEMAS["deadHeaders"]["properties"])
    assert {name for name in dead if not name.startswith(dead_letter.CONNECT)} == dead_letter.EVIDENCE_HEADERS


def test_its_lists_are_those_of_the_code() -> None:
    assert SCHEMAS["code"]["enum"] == [code.value for code in Code]
    assert SCHEMAS["datatype"]["enum"] == list(ITEM_SIZE)
    assert SCHEMAS["deadHeaders"]["properties"]["dead-reason"]["enum"] == list(dead_letter.REASONS)


def test_its_examples_fit_their_own_schemas() -> None:
    for name, message in DOCUMENT["components"]["messages"].items():
        for example in message.get("examples", ()):
            validate(name, "headers", example["headers"])
            validate(name, "payload", example["payload"])


def test_a_wrong_record_is_seen() -> None:
    with pytest.raises(AssertionError, match="error"):
        validate(
            "answerJson", "headers", {"id": "a", "content-type": JSON, "model": "m", "version": "1", "error": "ODD"}
        )
    with pytest.raises(AssertionError):
        validate("answerJson", "payload", {"model_name": "m", "model_version": "1", "outputs": [], "code": "INTERNAL"})


# --- real records ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("asyncapi")
    write_model(folder / "models", "add", ADD % (folder / "runs"))
    with fleet(kafka_bootstrap, redis_url, f"y{time.time_ns() % 10**9}", folder, folder / "models") as made:
        made.add_worker("--partitions", "1")
        made.wait_ready(models=1)
        yield made


def texts(record: ConsumerRecord) -> dict[str, str]:
    """A record's headers as text."""
    return {name: (value or b"").decode("latin-1") for name, value in record.headers}


def plain(value: object) -> object:
    """Decoded msgpack with binaries as text, for the validator."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def decoded(record: ConsumerRecord) -> object:
    """A record's value as its schema describes it."""
    if texts(record).get("content-type") == JSON or record.value[:1] == b"{":
        return json.loads(record.value)
    value = msgpack.unpackb(record.value)
    if isinstance(value, dict):
        return plain(value)
    head = msgpack.unpackb(value[0])
    return plain(head) if len(value) == 2 else [plain(head), "", plain(msgpack.unpackb(value[2]))]


@asynccontextmanager
async def reading(running: Fleet, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=running.kafka, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    try:
        yield consumer
    finally:
        await consumer.stop()


async def records(running: Fleet, topic: str, count: int) -> list[ConsumerRecord]:
    async with reading(running, topic) as consumer, asyncio.timeout(30):
        return [await consumer.getone() for _ in range(count)]


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_real_requests_answers_and_dead_letters_fit_it(running: Fleet) -> None:
    names = Names(running.prefix)
    topic, reply_to = names.infer_topic("add", "1"), names.reply_to_topic("job")
    tensors = [{"name": n, "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} for n in "AB"]
    body = {"id": "label", "inputs": tensors}
    simple = {"inputs": [{**tensor, "data": np.ones(4, "<f4").tobytes()} for tensor in tensors]}
    ours = InferRequest(
        "frame", "add", "1", tuple(from_array(n, np.ones((1, 4), np.float32)) for n in "AB"), reply_to=reply_to,
        deadline=time.time() + 60, accepted=time.time(), priority=1, principal="team",
    )  # fmt: skip
    sent: list[tuple[bytes, Mapping[str, bytes]]] = [
        (json.dumps(body).encode(), {"id": b"json"}),
        (json.dumps(body).encode(), {"id": b"as-msgpack", "accept": MSGPACK.encode(), "content-type": JSON.encode()}),
        (msgpack.packb(simple), {"id": b"simple"}),
        (msgpack.packb(simple), {"id": b"as-json", "accept": JSON.encode()}),
        (json.dumps(body).replace("FP32", "FP64").encode(), {"id": b"refused"}),
        (msgpack.packb({**simple, "inputs": simple["inputs"][:1]}), {"id": b"refused-msgpack"}),
        (b'{"inputs": 5}', {"id": b"undecodable"}),
    ]
    producer = AIOKafkaProducer(bootstrap_servers=running.kafka)
    await producer.start()
    try:
        for value, headers in sent:
            pairs = [*headers.items(), ("reply-to", reply_to.encode())]
            await producer.send_and_wait(topic, value, headers=pairs)
        value, pairs = encode_request(ours)
        await producer.send_and_wait(topic, value, headers=pairs)
    finally:
        await producer.stop()

    for record in await records(running, topic, len(sent) + 1):
        kind = "requestJson" if record.value[:1] == b"{" else "requestMsgpack"
        validate(kind, "headers", texts(record))
        if texts(record)["id"] != "undecodable":
            validate(kind, "payload", decoded(record))
    answers = {
        texts(record)["id"]: record for record in await records(running, names.results_topic("job"), len(sent) + 1)
    }
    assert len(answers) == len(sent) + 1
    for record in answers.values():
        kind = "answerJson" if texts(record)["content-type"] == JSON else "answerMsgpack"
        validate(kind, "headers", texts(record))
        validate(kind, "payload", decoded(record))
    kinds = {name: (texts(r)["content-type"], texts(r).get("error", "")) for name, r in answers.items()}
    assert kinds == {
        "json": (JSON, ""), "as-msgpack": (MSGPACK, ""), "simple": (MSGPACK, ""), "as-json": (JSON, ""),
        "refused": (JSON, "INVALID_ARGUMENT"), "refused-msgpack": (MSGPACK, "INVALID_ARGUMENT"),
        "undecodable": (JSON, "INVALID_ARGUMENT"), "frame": (MSGPACK, ""),
    }  # fmt: skip
    assert answers["frame"].key == b"team/frame"
    (letter,) = await records(running, names.dead_topic("add"), 1)
    validate("deadLetter", "headers", texts(letter))
    assert letter.value == b'{"inputs": 5}'
    named = set(SCHEMAS["deadHeaders"]["properties"]) | set(SCHEMAS["requestHeaders"]["properties"])
    assert set(texts(letter)) <= named
