"""Results and directory of a process that takes calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

from protocol.errors import Unavailable
from protocol.messages import Heartbeat, Pulse, pulse_of
from protocol.ports import Cancel, Claim, Claimed, FinishOutcome, Place, RequestState, Terminal, Wake
from protocol.totals import Key
from protocol.transport.embedded.remote.calls import RemotePort


class RemoteStore(RemotePort):
    """Results and directory of a process that takes calls; see `protocol.ports.Results` and `Directory`."""

    name = "result store"

    async def close(self) -> None:
        """Disconnect, and stop listening."""
        if self._is_open:
            self._calls.forget_listeners()
        await super().close()

    async def healthy(self) -> bool:
        """Whether the other process is there and its results can be written."""
        try:
            return self._is_open and bool((await self._calls.call("healthy"))[1])
        except Unavailable:
            return False

    async def now(self) -> float:
        """Seconds since the epoch."""
        return float(await self._call("now"))

    async def fill(self) -> float:
        """See `Results.fill`."""
        return float(await self._call("fill"))

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """See `Results.finish`."""
        # Answers may share one object of counts, which then counts once: it must be one object there, too.
        counts = {id(answer.counts): answer.counts for answer in answers if answer.counts is not None}
        place = {identity: number for number, identity in enumerate(counts)}
        places = [-1 if answer.counts is None else place[id(answer.counts)] for answer in answers]
        plain = [dataclasses.replace(answer, counts=None) for answer in answers]
        outcomes: list[FinishOutcome] = await self._call("finish", plain, list(counts.values()), places)
        return outcomes

    async def totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        """See `Results.totals`."""
        totals: list[dict[str, int]] = await self._call("totals", versions)
        return totals

    async def claim(self, claim: Claim) -> Claimed:
        """See `Results.claim`."""
        claimed: Claimed = await self._call("claim", claim)
        return claimed

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        """See `Results.confirm`."""
        await self._call("confirm", ref, published, place)

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        """See `Results.start`."""
        attempts: list[int] = await self._call("start", refs, worker, ttl)
        return attempts

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        """See `Results.look`."""
        states: list[RequestState | None] = await self._call("look", refs)
        return states

    async def trim(self, refs: Sequence[str]) -> None:
        """See `Results.trim`."""
        await self._call("trim", refs)

    async def release(self, refs: Sequence[str]) -> None:
        """See `Results.release`."""
        await self._call("release", refs)

    async def listen(self, channel: str, on_wake: Callable[[list[Wake]], None]) -> None:
        """See `Results.listen`."""
        self._calls.wakes[channel] = on_wake
        await self._call("listen", channel)

    async def cancel(self, channel: str, cancels: Sequence[Cancel]) -> None:
        """See `Results.cancel`."""
        await self._call("cancel", channel, cancels)

    async def listen_cancels(self, channel: str, on_cancel: Callable[[list[Cancel]], None]) -> None:
        """See `Results.listen_cancels`."""
        self._calls.cancels[channel] = on_cancel
        await self._call("listen_cancels", channel)

    async def unlisten(self, channel: str) -> None:
        """See `Results.unlisten`."""
        self._calls.wakes.pop(channel, None)
        self._calls.cancels.pop(channel, None)
        if self._calls.is_open:
            await self._call("unlisten", channel)

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `Directory.beat`."""
        await self._call("beat", heartbeat)

    async def workers(self) -> list[Heartbeat]:
        """See `Directory.workers`."""
        beats: list[Heartbeat] = await self._call("workers")
        return beats

    async def forget(self, worker: str) -> None:
        """See `Directory.forget`."""
        await self._call("forget", worker)

    async def pulses(self, workers: Collection[str] | None = None) -> list[Pulse]:
        """See `Directory.pulses`."""
        return [pulse_of(beat) for beat in await self.workers() if workers is None or beat.worker in workers]

    async def answer(self, heartbeat: Heartbeat) -> None:
        """See `Directory.answer`."""
        await self._call("answer", heartbeat)

    async def answers(self, workers: Collection[str]) -> list[Heartbeat]:
        """See `Directory.answers`."""
        beats: list[Heartbeat] = await self._call("answers", list(workers))
        return beats

    async def ask(self, ask: str) -> None:
        """See `Directory.ask`."""
        await self._call("ask", ask)

    async def hint_waiting(self, topic: str) -> None:
        """See `Directory.hint_waiting`."""
        await self._call("hint_waiting", topic)

    async def listen_waiting(self, on_hint: Callable[[str], None]) -> None:
        """See `Directory.listen_waiting`."""
        self._calls.waiting.append(on_hint)
        await self._call("listen_waiting")

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """See `Directory.listen_asks`."""
        self._calls.asks.append(on_ask)
        await self._call("listen_asks")
