"""The response cache: its accounting, its key, and a worker that answers from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.messages import InferReply, InferRequest
from protocol.tensors import Tensor, from_array
from tests.workers.fleet import IDENTITY, fleet, values, write_model
from workers.response_cache import ENTRY_BYTES, MAX_INPUT_BYTES, TENSOR_BYTES, ResponseCache, key_of, size_of

CACHED = IDENTITY + "response_cache { enable: true }"
keys = st.sampled_from([bytes([number]) for number in range(8)])


def outputs(size: int) -> tuple[Tensor, ...]:
    return (Tensor("Y", "UINT8", (size,), b"x" * size),)


class Accounting(RuleBasedStateMachine):
    """Against a list in the order of use."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = ResponseCache(4 * size_of(outputs(100)))
        self.model: list[tuple[bytes, int]] = []

    @rule(key=keys, size=st.integers(0, 6000))
    def put(self, key: bytes, size: int) -> None:
        kept = self.cache.put(key, outputs(size))
        self.model = [entry for entry in self.model if entry[0] != key]
        assert kept == (size_of(outputs(size)) <= self.cache.max_bytes)
        if kept:
            self.model.append((key, size))
            while sum(size_of(outputs(each)) for _, each in self.model) > self.cache.max_bytes:
                self.model.pop(0)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        found = self.cache.get(key)
        expected = next((size for known, size in self.model if known == key), None)
        assert (None if found is None else len(found[0].data)) == expected
        if expected is not None:
            self.model.remove((key, expected))
            self.model.append((key, expected))

    @invariant()
    def bytes_are_counted(self) -> None:
        assert len(self.cache) == len(self.model)
        assert self.cache.used == sum(size_of(outputs(size)) for _, size in self.model) <= self.cache.max_bytes


TestAccounting = Accounting.TestCase


def test_what_is_kept_shares_no_memory_with_what_was_given() -> None:
    cache, data = ResponseCache(10_000), bytearray(b"abc")
    cache.put(b"k", (Tensor("Y", "UINT8", (3,), memoryview(data)),))
    data[:] = b"xyz"
    found = cache.get(b"k")
    assert found is not None
    assert bytes(found[0].data) == b"abc"


def test_without_bytes_nothing_is_kept() -> None:
    assert not ResponseCache(0).put(b"k", ())
    assert size_of(outputs(5)) == ENTRY_BYTES + TENSOR_BYTES + 1 + 5


BASE = InferRequest("id", "m", "1", (from_array("X", np.float32([[1, 2]])),), ("Y",), {"a": 1})
CHANGES = [
    {"model": "n"}, {"version": "2"}, {"outputs": ()}, {"outputs": ("Y", "Z")}, {"parameters": {}}, {"parameters": {"a": True}},
    {"parameters": {"a": "1"}}, {"parameters": {"b": 1}}, {"inputs": (from_array("X", np.float32([[1, 3]])),)},
    {"inputs": (from_array("X", np.float32([[1], [2]])),)}, {"inputs": (from_array("Z", np.float32([[1, 2]])),)},
    {"inputs": (Tensor("X", "INT32", (1, 2), BASE.inputs[0].data),)}, {"inputs": ()},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_whatever_a_model_sees_changes_the_key(change: dict[str, object]) -> None:
    assert key_of(dataclasses.replace(BASE, **change), "d") != key_of(BASE, "d")  # type: ignore[arg-type]


def test_whatever_it_does_not_see_does_not() -> None:
    other = dataclasses.replace(
        BASE, id="other", label="l", principal="p", deadline=9.0, priority=2, timeout=1.0, traceparent="t", accepted=5.0
    )
    assert key_of(other, "d") == key_of(BASE, "d")
    assert key_of(BASE, "e") != key_of(BASE, "d")
    swapped = dataclasses.replace(BASE, parameters={"b": 2, "a": 1})
    assert key_of(swapped, "d") == key_of(dataclasses.replace(BASE, parameters={"a": 1, "b": 2}), "d")


def test_a_request_that_is_too_large_to_hash_has_no_key() -> None:
    large = Tensor("X", "UINT8", (1, MAX_INPUT_BYTES + 1), bytes(MAX_INPUT_BYTES + 1))
    assert key_of(dataclasses.replace(BASE, inputs=(large,)), "d") is None


texts = st.lists(st.text(max_size=4), max_size=4)


@given(texts, texts, st.booleans())
def test_names_that_run_together_give_other_keys(first: list[str], second: list[str], swap: bool) -> None:
    one = dataclasses.replace(BASE, outputs=tuple(first), inputs=(), parameters=dict.fromkeys(second, swap))
    two = dataclasses.replace(BASE, outputs=tuple(second), inputs=(), parameters=dict.fromkeys(first, swap))
    same = first == second or (one.outputs, one.parameters) == (two.outputs, two.parameters)
    assert (key_of(one, "") == key_of(two, "")) == same


def reasons(replies: list[InferReply]) -> list[str]:
    return [reply.timing.reason for reply in replies]


async def test_equal_requests_are_answered_without_a_run_and_counted_as_in_triton(tmp_path: Path) -> None:
    write_model(tmp_path, "m", CACHED)
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        caller = await f.caller()
        first = await caller.ask(caller.request(1, 2))
        again = await caller.ask(caller.request(1, 2, label="mine"))
        other = await caller.ask(caller.request(3, 4))
        (serving,) = worker.models.serving()
        stats = serving.statistics.to_json()

    assert values([*first, *again, *other]) == [[1, 2], [1, 2], [3, 4]]
    assert reasons([*first, *again, *other]) == ["no_delay", "cache hit", "no_delay"]
    assert again[0].label == "mine"
    assert again[0].timing.compute_start == 0.0
    assert (stats["inference_count"], stats["execution_count"]) == (2, 2)
    counts = {name: duration["count"] for name, duration in stats["inference_stats"].items()}
    assert counts == {
        "success": 3, "fail": 0, "queue": 3, "compute_input": 2, "compute_infer": 2, "compute_output": 2, "cache_hit": 1,
        "cache_miss": 2,
    }  # fmt: skip
    assert serving.runner.in_flight == 0


@pytest.mark.parametrize(
    ("config", "settings"), [(IDENTITY, {}), (IDENTITY + "response_cache {}", {}), (CACHED, {"cache_bytes": 0})]
)
async def test_nothing_is_kept_unless_the_model_and_the_worker_say_so(
    tmp_path: Path, config: str, settings: dict[str, int]
) -> None:
    write_model(tmp_path, "m", config)
    async with fleet(tmp_path) as f:
        await f.worker(**settings)
        caller = await f.caller()
        replies = [(await caller.ask(caller.request(1)))[0] for _ in range(2)]

    assert reasons(replies) == ["no_delay"] * 2


async def test_failures_are_not_kept(tmp_path: Path) -> None:
    code = """
import pathlib
class Model:
    def predict(self, X):
        count = pathlib.Path(__file__).with_name("count")
        count.write_text("x" + (count.read_text() if count.exists() else ""))
        if len(count.read_text()) < 2:
            raise ValueError("not yet")
        return {"Y": X}
"""
    write_model(tmp_path, "m", CACHED.replace("identity", "python"), {"model.py": code})
    async with fleet(tmp_path) as f:
        await f.worker()
        caller = await f.caller()
        replies = [(await caller.ask(caller.request(1)))[0] for _ in range(3)]

    assert replies[0].failure is not None
    assert [reply.failure for reply in replies[1:]] == [None, None]
    assert reasons(replies) == ["no_delay", "no_delay", "cache hit"]


async def test_two_versions_of_the_files_share_no_answers(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", CACHED)
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        caller = await f.caller()
        await caller.ask(caller.request(1))
        (folder / "config.pbtxt").write_text(CACHED + "\n")
        await worker.models.poll()
        replies = await caller.ask(caller.request(1))

    assert reasons(replies) == ["no_delay"]
