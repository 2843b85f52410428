"""The transport over a socket to the process with the log: the contracts, with members of groups where the log is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CodecError, FleetError, NotFound, Unavailable, Unsupported
from protocol.frames import pack
from protocol.messages import InferReply, InferRequest
from protocol.naming import Names
from protocol.ports import (
    Bus,
    Cancel,
    Claim,
    Claimed,
    ClaimState,
    Consumer,
    Listener,
    OutRecord,
    Record,
    RequestState,
    Terminal,
    Wake,
)
from protocol.runtime.microtasks import Microtasks
from protocol.tensors import Tensor
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryStore
from protocol.transport.embedded.remote import RemoteBus, RemoteCalls, RemoteStore
from protocol.transport.embedded.remote import frames as remote_frames
from protocol.transport.embedded.remote.frames import FrameReader, encode
from protocol.transport.embedded.remote.server import RemoteServer
from protocol.transport.embedded.remote.values import plain, value_of
from protocol.transport.embedded.sqlite import SqliteBus, SqliteStore
from protocol.transport.embedded.sqlite_broker import SqliteBroker
from protocol.transport.settings import TransportSettings
from tests.transport import contract_bus, contract_results
from tests.transport.contract_bus import BusContract, numbered
from tests.transport.contract_results import ResultsContract, Store


class MixedBus(RemoteBus):
    """A remote bus whose groups are those of the process with the log, where a server's workers are."""

    def __init__(self, calls: RemoteCalls, local: MemoryBus) -> None:
        super().__init__(calls)
        self._local = local

    async def open(self) -> None:
        await super().open()
        await self._local.open()

    async def close(self) -> None:
        await super().close()
        await self._local.close()

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        return await self._local.subscribe(topic, group, member, listener)

    async def evict(self, group: str, members: Sequence[str]) -> None:
        await self._local.evict(group, members)


class Served:
    """A process with a log and results."""

    def __init__(self, bus: MemoryBus, store: MemoryStore, microtasks: Microtasks) -> None:
        self.bus, self.store = bus, store
        self.server = RemoteServer(bus, store, microtasks)
        self.ends: list[RemoteBus | RemoteStore] = []

    async def open(self) -> None:
        await self.bus.open()
        await self.store.open()

    async def close(self) -> None:
        for end in self.ends:
            await end.close()
        await self.server.close()
        await self.bus.close()
        await self.store.close()


def in_memory(session_timeout: float = 10.0) -> Served:
    microtasks = Microtasks()
    bus = MemoryBus(MemoryBroker(session_timeout), microtasks)
    return Served(bus, MemoryStore(TransportSettings(), microtasks=microtasks), microtasks)


def in_folder(folder: Path, session_timeout: float = 10.0) -> Served:
    settings = TransportSettings(data_dir=folder)
    bus = SqliteBus(settings, SqliteBroker(folder / "bus.sqlite", session_timeout))
    return Served(bus, SqliteStore(settings), Microtasks())


@pytest.fixture(params=["memory", "sqlite"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    made = in_memory(0.4) if request.param == "memory" else in_folder(tmp_path, 0.4)
    await made.open()
    yield made
    await made.close()


class BusSite(contract_bus.Site):
    session_timeout = 0.4
    time_limit = 5.0

    def __init__(self, served: Served) -> None:
        self.served = served

    async def connect(self) -> Bus:
        bus = MixedBus(RemoteCalls(self.served.server.attach()), self.served.bus.another())
        await bus.open()
        self.served.ends.append(bus)
        return bus

    def topic(self, name: str) -> str:
        return f"test.infer.{name}.1"


class ResultsSite(contract_results.Site):
    names = Names("test")

    def __init__(self, served: Served) -> None:
        self.served = served

    async def connect(self, result_ttl: float = 60.0) -> Store:
        self.served.store._settings = TransportSettings(
            result_ttl=result_ttl, data_dir=self.served.store._settings.data_dir
        )
        store = RemoteStore(RemoteCalls(self.served.server.attach()))
        await store.open()
        self.served.ends.append(store)
        return store


class TestRemoteBus(BusContract):
    @pytest.fixture
    def site(self, served: Served) -> BusSite:
        return BusSite(served)


class TestRemoteStore(ResultsContract):
    @pytest.fixture
    def site(self, served: Served) -> ResultsSite:
        return ResultsSite(served)


# --- what only this transport does -----------------------------------------------------------------------------------


async def test_groups_are_not_offered(served: Served) -> None:
    bus = RemoteBus(RemoteCalls(served.server.attach()))
    await bus.open()
    served.ends.append(bus)
    with pytest.raises(Unsupported, match="'subscribe'"):
        await bus.subscribe("t", "g", "m", None)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="'evict'"):
        await bus.evict("g", ["m"])
    with pytest.raises(Unsupported, match="'close'"):
        await bus._calls.call("close")
    with pytest.raises(Unsupported, match="'__class__'"):
        await bus._calls.call("__class__")


async def test_the_end_of_the_other_process_fails_calls_and_is_told() -> None:
    served = in_memory()
    await served.open()
    lost = asyncio.Event()
    calls = RemoteCalls(served.server.attach(), lost.set)
    bus, store = RemoteBus(calls), RemoteStore(calls)
    await bus.open()
    await store.open()
    await bus.ensure_topic("t", 1)
    following = bus.follow("t")
    assert await anext(following) == []
    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    await served.close()

    with pytest.raises((Unavailable, StopAsyncIteration)):
        await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(lost.wait(), 5)
    assert not await bus.healthy()
    assert not await store.healthy()
    with pytest.raises(Unavailable, match="is gone"):
        await bus.publish("t", numbered(1))
    await bus.close()
    await store.close()


async def test_a_process_that_dies_leaves_no_listener() -> None:
    served = in_memory()
    await served.open()
    calls = RemoteCalls(served.server.attach())
    store = RemoteStore(calls)
    await store.open()
    await store.listen("gone", lambda _: None)
    assert "gone" in served.store._server.wakes
    assert calls._link._transport is not None
    calls._link._transport.abort()
    async with asyncio.timeout(5):
        while "gone" in served.store._server.wakes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await served.close()


async def test_an_answer_made_in_the_other_process_arrives_as_bytes(served: Served) -> None:
    store = RemoteStore(RemoteCalls(served.server.attach()))
    await store.open()
    served.ends.append(store)
    wakes: list[Wake] = []
    await store.listen("c", wakes.extend)
    reply = InferReply("m", "1", outputs=(Tensor("Y", "INT8", (5000,), bytes(5000)),))
    await served.store.finish([Terminal("r", reply, "c")])
    async with asyncio.timeout(5):
        while not wakes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert wakes[0].ref == "r"
    assert isinstance(wakes[0].payload, bytes)


async def test_a_stranger_on_the_socket_ends_only_its_connection() -> None:
    served = in_memory()
    await served.open()
    for sent in (
        b"\0\0\0\1\0\0\0\0\xc1",
        b"\0\0\0\1\0\0\0\0\1",
        b"\0\0\0\2\0\0\0\5\x92\1xxxxx",
        bytes(8) + b"x" * 100,
        b"\xff" * 8,
    ):
        end = served.server.attach()
        end.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(end, sent)
        assert await asyncio.wait_for(loop.sock_recv(end, 100), 5) == b""
        end.close()
    store = RemoteStore(RemoteCalls(served.server.attach()))
    await store.open()
    assert await store.healthy()
    await store.close()
    await served.close()


# --- frames and values -----------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(), st.lists(st.binary(max_size=50), max_size=3)), max_size=8),
    st.lists(st.integers(1, 70), min_size=1),
    st.booleans(),
)
def test_frames_arrive_whole_however_they_are_cut(
    sent: list[tuple[int, list[bytes]]], cuts: list[int], small: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(remote_frames, "ROOM", 64)
            patch.setattr(remote_frames, "_LEAST", 16)
        reader, got = FrameReader(), []
        stream = b"".join(bytes(part) for head, binaries in sent for part in encode(head % 1000, binaries))
        at, number = 0, 0
        while at < len(stream):
            room = reader.room()
            count = min(len(room), cuts[number % len(cuts)], len(stream) - at)
            room[:count] = stream[at : at + count]
            got += [(head, [bytes(each) for each in binaries]) for head, binaries in reader.filled(count)]
            at, number = at + count, number + 1
    assert got == [(head % 1000, binaries) for head, binaries in sent]


def test_what_is_no_frame_is_told() -> None:
    for head in (b"\xc1", b"\1", pack([1]), pack([1, ["x"]]), pack([1, [5]])):
        reader = FrameReader()
        sent = len(head).to_bytes(4, "big") + bytes(4) + head
        reader.room()[: len(sent)] = sent
        with pytest.raises(CodecError):
            reader.filled(len(sent))


def through(value: object) -> object:
    binaries: list[bytes | memoryview] = []
    data = plain(value, binaries)
    (frame,) = [encode(data, binaries)]
    reader = FrameReader()
    whole = b"".join(bytes(part) for part in frame)
    assert len(whole) < remote_frames.ROOM
    reader.room()[: len(whole)] = whole
    ((head, parts),) = reader.filled(len(whole))
    return value_of(head, parts)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1.5, "text", b"x" * 5000, [1, [2, None]], {0: 4, 1: 5},
        Claim("r", "f", "c", 1.0, 2.0, "m", "1", 3.0, (1, 2)),
        Claimed(ClaimState.ATTACHED, None, True, (0, 7)),
        [RequestState("done", b"y" * 9000), None],
        [Wake("r", b""), Wake("s", None)],
        [Cancel("r", 1.25)],
        OutRecord(b"v", [("a", b"1"), ("b", None)], b"k", 2.0),
        Record("t", 0, 3, 1.0, b"v" * 4000, [("a", b"1")], None, "why"),
    ],
)  # fmt: skip
def test_values_cross_as_they_are(value: object) -> None:
    assert through(value) == value


def test_errors_cross_with_their_kind() -> None:
    for error in (NotFound("no"), Unavailable("busy", retry_after=2.0), FleetError("odd")):
        got = through(error)
        assert isinstance(got, FleetError)
        assert (type(got), got.code, got.message, got.retry_after) == (
            type(error),
            error.code,
            error.message,
            error.retry_after,
        )


def test_a_message_crosses_as_a_record_of_bytes() -> None:
    request = InferRequest("r", "m", "1", (Tensor("X", "INT8", (3,), b"abc"),))
    got = through(Record("t", 0, 1, 1.0, b"", (), None, "", request, 100))
    assert isinstance(got, Record)
    assert got.request is None
    assert dict(got.headers)["id"] == b"r"


def test_what_no_port_knows_does_not_cross() -> None:
    with pytest.raises(TypeError, match="does not cross"):
        plain(socket.AF_UNIX.__class__, [])
    for data in ({"socket": []}, {"Claim": [1]}, {"binary": 7}, {}, {"a": 1, "b": 2}, {"error": ["X", "", None]}):
        with pytest.raises(CodecError):
            value_of(data, [])
