"""Classes and shared memory over HTTP: plain, keyed, asynchronous and large calls."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from tests.gateway.fleet import ADD_SUB, ANY, TEXT, Running, Site, add_sub, floats

FOLDER = Path("/dev/shm")
DATA = np.array([0.5, 3, 1], np.float32)
CLASSES = ["3.000000:1", "1.000000:2", "0.500000:0"]


@pytest.fixture
async def gateway(fleet: Site) -> Running:
    for config in (ANY, TEXT, ADD_SUB):
        await fleet.worker(config, name=config["name"])
    return await fleet.gateway(allow_shared_memory=True)


@dataclasses.dataclass
class Memory:
    """A shared memory object, as a client has it."""

    name: str

    @property
    def content(self) -> bytes:
        return (FOLDER / self.name).read_bytes()

    @content.setter
    def content(self, content: bytes) -> None:
        (FOLDER / self.name).write_bytes(content)


@pytest.fixture
def segment() -> Iterator[Memory]:
    """64 bytes with `DATA` at their beginning."""
    memory = Memory(f"penstock-test-{uuid.uuid4().hex}")
    memory.content = DATA.tobytes().ljust(64, b"\0")
    yield memory
    (FOLDER / memory.name).unlink()


def body(classes: object, **more: Any) -> dict[str, Any]:
    tensor = {"name": "IN", "datatype": "FP32", "shape": [3], "data": DATA.tolist()}
    return {"inputs": [tensor], "outputs": [{"name": "OUT", "parameters": {"classification": classes, **more}}]}


def part(region: str = "r", size: int = 12, offset: int = 0) -> dict[str, Any]:
    return {"shared_memory_region": region, "shared_memory_byte_size": size, "shared_memory_offset": offset}


def shared(source: dict[str, Any] | None = None, target: dict[str, Any] | None = None) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": "IN", "datatype": "FP32", "shape": [3]}
    tensor |= {"parameters": source} if source is not None else {"data": DATA.tolist()}
    return {"inputs": [tensor], **({"outputs": [{"name": "OUT", "parameters": target}]} if target is not None else {})}


async def register(gateway: Running, segment: Memory, region: str = "r", size: int = 64) -> httpx.Response:
    content = {"key": f"/{segment.name}", "offset": 0, "byte_size": size}
    return await gateway.post(f"/v2/systemsharedmemory/region/{region}/register", json=content)


def output(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["outputs"]
    return dict(found)


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
async def test_plain_and_keyed_calls_get_classes(gateway: Running, headers: dict[str, str]) -> None:
    for count in (2, 2, 9):
        key = {name: f"{value}{count}" for name, value in headers.items()}
        answer = await gateway.post("/v2/models/any/infer", json=body(count), headers=key)
        expected = CLASSES[:count]
        assert output(answer) == {"name": "OUT", "datatype": "BYTES", "shape": [len(expected)], "data": expected}


async def test_an_asynchronous_call_gets_classes(gateway: Running) -> None:
    accepted = await gateway.post("/v2/models/any/infer", json=body(2), headers={"prefer": "respond-async"})
    assert accepted.status_code == 202

    answer = await gateway.get(accepted.headers["location"] + "?wait_s=10")

    assert output(answer)["data"] == CLASSES[:2]


async def test_classes_as_raw_bytes(gateway: Running) -> None:
    answer = await gateway.post("/v2/models/any/infer", json=body(1, binary_data=True))

    length = int(answer.headers["inference-header-content-length"])
    assert orjson.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 14}
    assert answer.content[length:] == b"\x0a\0\0\x003.000000:1"


async def test_no_classes_are_the_tensor_itself(gateway: Running) -> None:
    assert output(await gateway.infer(body(0), "any"))["datatype"] == "FP32"


async def test_rows_are_classified_one_by_one(gateway: Running) -> None:
    asked = add_sub(rows=2, outputs=[{"name": "OUTPUT0", "parameters": {"classification": 1}}])

    found = output(await gateway.infer(asked))

    assert (found["shape"], found["data"]) == ([2, 1], ["33.000000:15", "65.000000:15"])


async def test_many_classes_are_made_and_written_elsewhere(gateway: Running) -> None:
    asked = floats(300_000, outputs=[{"name": "OUT", "parameters": {"classification": 300_000}}])

    found = output(await gateway.infer(asked, "any"))

    assert found["shape"] == [300_000]
    assert found["data"][:2] == ["299999.000000:299999", "299998.000000:299998"]


@pytest.mark.parametrize("value", [-1, "1", 1.5, True, None, 2**64])
async def test_only_unsigned_integers_are_numbers_of_classes(gateway: Running, value: object) -> None:
    answer = await gateway.infer(orjson.dumps(body(value)) if value != 2**64 else b"", "any")
    assert answer.status_code == 400


async def test_text_has_no_classes(gateway: Running) -> None:
    tensor = {"name": "IN", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    asked = {"inputs": [tensor], "outputs": [{"name": "OUT", "parameters": {"classification": 1}}]}

    answer = await gateway.infer(asked, "text")

    assert (answer.status_code, answer.json()) == (
        400, {"error": "class result not available for output due to unsupported type 'BYTES'"},
    )  # fmt: skip


# --- shared memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
async def test_inputs_and_outputs_in_shared_memory(gateway: Running, segment: Memory, headers: dict[str, str]) -> None:
    assert (await register(gateway, segment)).content == b""

    answer = await gateway.post("/v2/models/any/infer", json=shared(part(), part(offset=32)), headers=headers)

    assert output(answer) == {"name": "OUT", "datatype": "FP32", "shape": [3]}
    assert segment.content == DATA.tobytes().ljust(32, b"\0") + DATA.tobytes().ljust(32, b"\0")
    assert output(await gateway.infer(shared(part()), "any"))["data"] == DATA.tolist()


async def test_a_large_tensor_in_shared_memory(gateway: Running, segment: Memory) -> None:
    values = np.arange(1_000_000, dtype=np.float32)
    segment.content = values.tobytes() + bytes(4_000_000)
    await register(gateway, segment, size=8_000_000)
    asked = shared(part(size=4_000_000), part(size=4_000_000, offset=4_000_000))
    asked["inputs"][0]["shape"] = [1_000_000]

    answer = await gateway.infer(asked, "any")

    assert output(answer)["shape"] == [1_000_000]
    assert segment.content == values.tobytes() * 2
    assert gateway.gateway.service.admission.size == 0


async def test_a_keyed_call_is_marked_by_the_contents_of_the_memory(gateway: Running, segment: Memory) -> None:
    await register(gateway, segment)
    first = await gateway.infer(shared(part()), "any", idempotency_key="k")
    again = await gateway.infer(shared(part()), "any", idempotency_key="k")
    segment.content = bytes(64)
    changed = await gateway.infer(shared(part()), "any", idempotency_key="k")
    assert [answer.status_code for answer in (first, again, changed)] == [200, 200, 422]


async def test_text_in_shared_memory_is_checked(gateway: Running, segment: Memory) -> None:
    segment.content = b"\x02\0\0\0ab".ljust(64, b"\0")
    await register(gateway, segment)
    asked = shared(part(size=6))
    asked["inputs"][0] |= {"datatype": "BYTES", "shape": [1]}
    assert output(await gateway.infer(asked, "text"))["data"] == ["ab"]
    asked["inputs"][0]["parameters"] = part(size=5)
    assert (await gateway.infer(asked, "text")).status_code == 400


@pytest.mark.parametrize(
    ("source", "target", "status", "text"),
    [
        (part("q"), None, 404, "Unable to find shared memory region: 'q'"),
        (part(offset=64), None, 400, "Invalid offset for shared memory region: 'r'"),
        (part(offset=60), None, 400, "Invalid offset + byte size for shared memory region: 'r'"),
        (part(offset=2**64 - 4), None, 400, "Invalid offset for shared memory region: 'r'"),
        (part(size=8), None, 400, "input byte size mismatch for input 'IN' for model 'any'. Expected 12, got 8"),
        (part(size=2**62), None, 400, "input byte size mismatch"),
        (
            {"shared_memory_region": "r"},
            None,
            400,
            "'shared_memory_byte_size' of input 'IN' must be an unsigned integer",
        ),
        (part() | {"shared_memory_offset": -1}, None, 400, "'shared_memory_offset'"),
        (part() | {"shared_memory_region": 5}, None, 400, "'shared_memory_region'"),
        (part() | {"binary_data_size": 12}, None, 400, "Input must set only one"),
        (None, part("q"), 404, "Unable to find shared memory region: 'q'"),
        (None, part(offset=60), 400, "Invalid offset + byte size"),
        (None, part(size=8), 400, "output 'OUT' (8 bytes) should be at least 12 bytes to hold the results"),
        (None, part() | {"binary_data": True}, 400, "Output can't set both 'shared_memory_region' and 'binary_data'"),
        (
            None,
            part() | {"classification": 1},
            400,
            "Output can't set both 'shared_memory_region' and 'classification'",
        ),
    ],
)
async def test_what_does_not_fit_is_refused(
    gateway: Running,
    segment: Memory,
    source: dict[str, Any] | None,
    target: dict[str, Any] | None,
    status: int,
    text: str,
) -> None:
    await register(gateway, segment)
    before = segment.content

    answer = await gateway.infer(shared(source, target), "any")

    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text
    assert segment.content == before


async def test_a_region_that_became_shorter_answers_400(gateway: Running, segment: Memory) -> None:
    await register(gateway, segment)
    segment.content = b""
    for asked in (shared(part()), shared(None, part())):
        answer = await gateway.infer(asked, "any")
        assert (answer.status_code, "has become shorter" in answer.text) == (400, True)


async def test_an_asynchronous_call_does_not_write_to_memory(gateway: Running, segment: Memory) -> None:
    await register(gateway, segment)
    answer = await gateway.infer(shared(None, part()), "any", prefer="respond-async")
    assert answer.status_code == 400


async def test_it_is_off_unless_allowed(fleet: Site, segment: Memory) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway()
    answers = [
        await register(gateway, segment),
        await gateway.infer(shared(part()), "any"),
        await gateway.infer(shared(None, part()), "any"),
        await gateway.get("/v2/systemsharedmemory/status"),
    ]
    assert [answer.status_code for answer in answers] == [501] * 4
    assert all("Client shared memory is disabled" in answer.text for answer in answers)
