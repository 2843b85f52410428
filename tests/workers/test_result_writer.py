import asyncio
from collections.abc import Sequence

from protocol.messages import InferRequest
from protocol.ports import FinishOutcome, Terminal
from tests.workers.fleet import turn_of_the_loop, until
from tests.workers.serving import bench
from workers.instances.job import Entry
from workers.results.writer import MAX_ANSWERS, MAX_BYTES, ResultWriter
from workers.statistics import ModelStatistics


class Store:
    """Notes each call's refs; a call can be held."""

    immediate = None

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        self.calls.append([answer.ref for answer in answers])
        await self.gate.wait()
        return [FinishOutcome.WRITTEN] * len(answers)


def pair(name: str, size: int = 1) -> tuple[Terminal, Entry]:
    return Terminal(name, bytes(size)), Entry(name, 1, "", InferRequest(name, "m", "1", ()), 0.0)


def put(writer: ResultWriter, *pairs: tuple[Terminal, Entry]) -> None:
    answers, entries = zip(*pairs, strict=True)
    writer.put(answers, entries)


async def test_what_is_put_in_one_turn_or_during_a_call_goes_out_together() -> None:
    async with bench() as b:
        store, settled = Store(), list[str]()
        writer = ResultWriter(
            b.context(results=store), ModelStatistics(), lambda entries: settled.extend(e.ref for e in entries)  # type: ignore[arg-type]
        )  # fmt: skip
        store.gate.clear()
        put(writer, pair("a"), pair("b"))
        put(writer, pair("c"))
        await until(lambda: store.calls == [["a", "b", "c"]])
        put(writer, pair("d"))
        put(writer, pair("e"))
        assert writer.pending == 5
        assert settled == []
        store.gate.set()
        await writer.drained()
        assert store.calls == [["a", "b", "c"], ["d", "e"]]
        assert settled == ["a", "b", "c", "d", "e"]
        assert writer.pending == 0


async def test_one_call_is_bounded_in_number_and_bytes() -> None:
    async with bench() as b:
        store = Store()
        writer = ResultWriter(b.context(results=store), ModelStatistics(), lambda entries: None)  # type: ignore[arg-type]
        put(writer, *[pair(str(number)) for number in range(MAX_ANSWERS + 1)])
        put(writer, *[pair(f"big{number}", MAX_BYTES // 2 + 1) for number in range(3)])
        await writer.drained()
        assert [len(call) for call in store.calls] == [MAX_ANSWERS, 3, 1]


async def test_what_is_abandoned_is_neither_written_nor_settled() -> None:
    async with bench() as b:
        store, settled = Store(), list[Entry]()
        writer = ResultWriter(b.context(results=store), ModelStatistics(), settled.extend)  # type: ignore[arg-type]
        store.gate.clear()
        put(writer, pair("a"))
        await until(lambda: len(store.calls) == 1)
        writer.abandon()
        put(writer, pair("b"))
        store.gate.set()
        await turn_of_the_loop()
        await turn_of_the_loop()
        assert settled == []
        assert store.calls == [["a"]]
