"""Holds a dialogue with a gateway over a socket, and judges the answers."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Final, cast

from tests.bad_input.answers import Answer, NotAnAnswer, Reader
from tests.bad_input.dialogues import Act, Dialogue, Manner
from tests.bad_input.requests import BUSY, Asked

PATIENCE: Final = 60.0
"""Seconds that a whole dialogue may take."""


@dataclasses.dataclass
class Verdict:
    """The results of a dialogue.

    Attributes:
        problems: one line each.
        busy: honest requests that got 429 or 503.
        answered: number of answers.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    busy: int = 0
    answered: int = 0


def judge(asked: Asked, answer: Answer, verdict: Verdict) -> None:
    """Note the problems with one answer."""
    verdict.answered += 1
    wrong = _fault(answer)
    if not wrong and answer.status in BUSY and answer.status not in asked.statuses:
        verdict.busy += asked.honest
        return
    if not wrong and answer.status not in asked.statuses:
        wrong = f"not {sorted(asked.statuses)}"
    if not wrong and answer.status in (200, 202) and asked.check is not None:
        wrong = asked.check(answer)
    if wrong:
        verdict.problems.append(f"{asked.name}: {wrong}: got {answer}")


def _fault(answer: Answer) -> str:
    """The problem of an answer that no request may get."""
    if answer.fields.get("penstock-error") == "INTERNAL" or answer.status == 500:
        return "a fault of the gateway's"
    if b"Traceback" in answer.body:
        return "a traceback"
    if answer.status == 200 and b'"canary"' in answer.body:
        return "a request within a body was answered"
    return ""


class Talk(asyncio.Protocol):
    """The client's side of one dialogue; `over` is done when its connection is."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.verdict = Verdict()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._dialogue = dialogue
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._acts = iter(dialogue.acts)
        self._waiting: list[Asked] = []
        self._last: Answer | None = None
        self._ended = False
        self._finished = False
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such
        manner, patience = self._dialogue.manner, self._dialogue.patience
        self._later(PATIENCE, self._give_up)
        if manner is Manner.DEAF:
            self._transport.pause_reading()
        self._next_act()
        if manner in (Manner.NOISY, Manner.HALF_CLOSED):
            self._transport.write_eof()
        elif manner is Manner.DEAF or (len(self._dialogue.acts) == 1 and manner is Manner.LEAVING):
            self._later(patience, self._leave)

    def data_received(self, data: bytes) -> None:
        try:
            for answer in self._reader.feed(data):
                self._take(answer)
        except NotAnAnswer as error:
            self._complain(f"not an answer: {error}")
            self._transport.abort()

    def eof_received(self) -> None:
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        if not self._finished and self._dialogue.manner is Manner.POLITE:
            self._judge_the_end()
        if not self.over.done():
            self.over.set_result(None)

    def _later(self, seconds: float, call: object) -> None:
        self._timers.append(self._loop.call_later(seconds, call))  # type: ignore[arg-type]

    def _next_act(self) -> None:
        act = next(self._acts, None)
        if act is None:
            if self._dialogue.manner is Manner.POLITE:
                return  # the last request asks for the end of the connection
            if self._dialogue.manner is Manner.LEAVING:
                self._leave()
            return
        self._waiting = list(act.asked)
        self._send(act)
        if self._dialogue.manner is Manner.LEAVING and act is self._dialogue.acts[-1]:
            self._later(self._dialogue.patience, self._leave)

    def _send(self, act: Act) -> None:
        data = act.data
        if self._last is not None:
            data = data.replace(b"@LOCATION@", self._last.fields.get("location", "/no-location").encode())
            data = data.replace(b"@ID@", self._last.fields.get("penstock-request-id", "no-id").encode())
        size = -(-len(data) // act.cuts)
        for place in range(act.cuts):
            piece = data[place * size : (place + 1) * size]
            if place == 0:
                self._transport.write(piece)
            elif piece:
                self._later(place * act.pause, lambda piece=piece: self._transport.write(piece))

    def _take(self, answer: Answer) -> None:
        self._last = answer
        if not self._waiting:
            if self._dialogue.manner in (Manner.NOISY, Manner.LEAVING):
                fault = _fault(answer)
                self.verdict.answered += 1
                if fault:
                    self._complain(f"{fault}: got {answer}")
            else:
                self._complain(f"an answer without a request: {answer}")
            return
        asked = self._waiting.pop(0)
        judge(asked, answer, self.verdict)
        if answer.closes and asked.may_end:
            self._waiting.clear()
            self._finished = True
        elif not self._waiting:
            self._next_act()

    def _judge_the_end(self) -> None:
        """The connection has ended, before or after the last answer."""
        if self._waiting and not any(asked.may_end for asked in self._waiting[:1]):
            missing = self._waiting[0]
            if not self._may_have_ended():
                self._complain(
                    f"{missing.name}: no answer, nor to {len(self._waiting) - 1} after it; rest {self._reader.rest!r}"
                )

    def _may_have_ended(self) -> bool:
        """Whether a gateway may hang up without notice after the last answered request."""
        act = self._dialogue.acts[-1]
        done = len(act.asked) - len(self._waiting)
        return done > 0 and act.asked[done - 1].may_end

    def _give_up(self) -> None:
        names = [asked.name for asked in self._waiting[:3]]
        self._complain(f"not over after {PATIENCE:g} s; waiting for {names}")
        self._transport.abort()

    def _leave(self) -> None:
        self._finished = True
        self._transport.abort()

    def _complain(self, what: str) -> None:
        self.verdict.problems.append(what)


async def talk(port: int, dialogue: Dialogue) -> Verdict:
    """Hold the dialogue with the gateway on this port of loopback."""
    try:
        _, client = await asyncio.get_running_loop().create_connection(lambda: Talk(dialogue), "127.0.0.1", port)
    except OSError as error:
        return Verdict([f"cannot connect: {error}"])
    await client.over
    verdict = client.verdict
    verdict.problems[:] = [f"dialogue {dialogue.number} ({dialogue.manner.value}): {text}" for text in verdict.problems]
    return verdict
