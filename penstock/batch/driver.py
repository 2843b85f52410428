"""Runs a job: reads, sends, awaits, writes and keeps the journal, on one event loop.

The order of a checkpoint: the output and the errors are made durable, and then the journal says so. A kill in between leaves lines
in the output that the journal does not know; they are cut off when the job goes on, and written again from the same answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from penstock.batch.backends import Backend, Served
from penstock.batch.begin import Begin
from penstock.batch.inputs import Input, open_input, rows_per_record
from penstock.batch.job import Job, Plan
from penstock.batch.journal import Journal
from penstock.batch.ordering import Watermark
from penstock.batch.progress import Meter, Progress
from penstock.batch.records import Block, Record, bad
from penstock.batch.rendering import error_line, json_lines, raw_error, raw_lines
from penstock.batch.sources import STANDARD
from penstock.batch.threads import apart
from penstock.batch.writers import Appender
from protocol.errors import Code, FleetError, quoted
from protocol.messages import InferReply
from protocol.ports import Place

CHECKPOINT: Final = 1.0
"""Seconds between checkpoints."""
GRACE: Final = 5.0
"""Seconds that rows in flight get after Ctrl-C."""
WINDOW: Final = 16_384
"""Rows in flight or unwritten."""
TURN: Final = 0.005
"""Seconds of reading after which answers get their turn."""
EARLY_BYTES: Final = 64 * 1024 * 1024
"""Bytes of answers to lines that were not read yet, above which reading of answers pauses while it is of use."""
_NEVER: Final = float("inf")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        progress: at its end.
        end: "done", "sent", "cancelled", or "" if it was stopped and can go on.
    """

    progress: Progress
    end: str


class Stop:
    """Asks a run to end: once with grace, twice at once."""

    def __init__(self) -> None:
        self.asked = 0
        self.listeners: list[Callable[[], object]] = []

    def ask(self) -> None:
        """Ask (again)."""
        self.asked += 1
        for listener in self.listeners:
            listener()


class Runner:
    """One run of a job, from its begin or from where it stopped.

    Args:
        begin: open.
        backend: open.
        served: the model version.
        collects: send nothing: write the answers that are in the log, without a journal.
    """

    def __init__(self, begin: Begin, backend: Backend, served: Served, *, collects: bool = False) -> None:
        self._begin, self._backend, self._served = begin, backend, served
        self._request, self._saved, self._collects = begin.request, begin.saved, collects
        self._wake = asyncio.Event()
        self._error: BaseException | None = None
        self._read_lines = self._saved.mark.line - 1
        self._stopping = False
        self._reading: asyncio.Future[Block] | None = None
        self._journal: Journal | None = None
        self._rows = int(self._saved.begin.get("rows", 0))
        request = self._request
        self._output = Appender(request.target + ".rows" if request.parquet else request.target)
        self._errors = Appender(request.errors)
        self._input: Input | None = None

    # --- events of the backend ---

    def logged(self, records: Sequence[Record]) -> None:
        """See `Events.logged`."""
        for record in records:
            self._job.logged(record)
        if not self._request.waits:
            self._wake.set()

    def answer(self, name: str, reply: InferReply, place: Place | None) -> None:
        """See `Events.answer`."""
        self._send(self._job.answer(name, reply, place, time.monotonic()))
        self._wake.set()

    async def ready(self) -> None:
        """See `Events.ready`."""
        await asyncio.sleep(0)
        while (before := self._job.early_bytes) > EARLY_BYTES:
            await asyncio.sleep(0.02)
            if self._job.early_bytes >= before:
                return

    def caught_up(self) -> None:
        """See `Events.caught_up`."""
        if self._collects and self._saved.end == "done":
            self._job.give_up(
                bad("its answer is no longer in the topic of answers: its retention has passed", Code.GONE)
            )
            self._wake.set()

    def broken(self, error: BaseException) -> None:
        """See `Events.broken`."""
        self._error = self._error or error
        self._wake.set()

    # --- begin ---

    def open_input(self) -> list[str]:
        """Open the input and check it against the model; may wait for a stream. Returns the columns that no input needs.

        Raises:
            FleetError, OSError: they do not fit.
        """
        self._rows = self._rows or rows_per_record(self._request)
        self._input = open_input(self._request, self._served.config, self._saved.mark, self._rows)
        return self._input.unused

    async def start(self) -> None:
        """Open output and journal, and begin to exchange records.

        Raises:
            FleetError, OSError: they cannot be written, or the fleet refuses.
        """
        assert self._input is not None
        saved, request, fresh = self._saved, self._request, self._begin.fresh
        if fresh:
            self._check_output()
        self._output.open(saved.output, fresh=fresh)
        self._errors.open(saved.errors, fresh=fresh)
        if not self._collects:
            await self._start_journal()
        window = request.window or max(WINDOW, 64 * self._rows)
        plan = Plan(
            self._begin.run,
            self._rows,
            window,
            request.unordered,
            bool(request.errors),
            not self._collects,
            request.waits,
        )
        lines, wrong = (raw_lines, raw_error) if request.parquet else (json_lines, error_line)
        self._job = Job(plan, self._input.columns, lines, wrong, saved.known, Watermark(saved.answers))
        self._job.mark = saved.mark
        self._job.answered, self._job.failed = saved.answered, saved.failed
        logged = await self._backend.start(self._begin.run, self._served, saved, self, awaits=request.waits)
        self._job.found(logged)

    async def _start_journal(self) -> None:
        saved, fresh, path = self._saved, self._begin.fresh, self._begin.folder.journal
        if not fresh:
            self._journal = Journal(path, saved.size)
            return
        saved.places.update(await self._begin_run())
        saved.begin |= {"name": self._begin.folder.name, "version": self._served.version, "rows": self._rows}
        saved.begin |= {"fleet": self._backend.where}
        self._journal = Journal(path, 0)
        self._journal.append({"begin": saved.begin, "places": saved.places, "at": time.time()})

    async def _begin_run(self) -> dict[int, int]:
        """The places of a new run; with `force` the first whose name is free."""
        while True:
            try:
                return dict(await self._backend.begin(self._begin.run, self._served))
            except FleetError as error:
                if not self._request.force or error.code is not Code.ALREADY_EXISTS:
                    raise
                self._begin.next_run()

    def _check_output(self) -> None:
        for path in sorted({self._request.target, self._output.path, self._request.errors} - {"", STANDARD}):
            place = Path(path)
            if not place.is_file() or not place.stat().st_size:
                continue
            if not self._request.force:
                raise FleetError(
                    f"{quoted(path)} is there already, and not of job '{self._begin.folder.name}'; choose another file, or --force "
                    "to overwrite it",
                    code=Code.ALREADY_EXISTS,
                )
            os.truncate(place, 0)

    # --- the loop ---

    async def run(self, stop: Stop, show: Callable[[Progress], None]) -> Outcome:
        """Run to the end, or until it is asked to stop.

        Args:
            stop: reading ends, and what is in flight gets `GRACE` seconds.
            show: called with the progress about once a second.

        Raises:
            FleetError, OSError: the fleet or the disk failed; the job can go on later.
        """
        loop, job = asyncio.get_running_loop(), self._job
        meter = Meter(loop.time(), job.answered + job.failed)
        stop.listeners.append(self._wake.set)
        saved_at, ends_at = loop.time(), _NEVER
        while not job.finished and self._error is None:
            self._turn()
            now = loop.time()
            if stop.asked and not self._stopping:
                self._stopping, ends_at = True, now + (0.0 if self._begin.folder.cancelled else GRACE)
            if self._stopping and (not job.in_flight or now >= ends_at or stop.asked > 1):
                break
            if now >= saved_at + CHECKPOINT:
                saved_at, progress = now, self._measure(meter, now)
                await self._checkpoint(rate=progress.rate)
                show(progress)
            await self._wait(min(saved_at + CHECKPOINT, ends_at) - loop.time())
        self._write()
        end = await self._end()
        if self._error is not None:
            raise self._error
        return Outcome(self._measure(meter, loop.time()), end)

    def _turn(self) -> None:
        """Read and send while there is room, for at most `TURN` seconds; write what is ready."""
        job = self._job
        begun = time.monotonic()
        while self._may_read and (block := self._next_block()) is not None:
            self._read_lines = block.after.line - 1
            self._send(job.admit(block, time.monotonic()))
            if time.monotonic() - begun > TURN:
                break
        self._send(job.due(time.monotonic()))
        self._write()

    @property
    def _may_read(self) -> bool:
        return self._job.room and not self._job.ended and not self._stopping

    def _next_block(self) -> Block | None:
        """The next block; None while another thread reads it."""
        assert self._input is not None
        if not self._input.waits:
            return self._input.read()
        if self._reading is None:
            self._reading = apart(self._input.read)
            self._reading.add_done_callback(lambda _: self._wake.set())
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        return reading.result()

    async def _wait(self, most: float) -> None:
        """Let the others work, and wait for them if there is nothing to do."""
        job = self._job
        if job.finished or self._error is not None or (self._may_read and self._reading is None):
            await asyncio.sleep(0)
            return
        if (due := job.next_due()) is not None:
            most = min(most, due - time.monotonic())
        if most > 0 and not self._wake.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most):
                    await self._wake.wait()
        self._wake.clear()
        await asyncio.sleep(0)

    def _send(self, records: Sequence[Record]) -> None:
        if records:
            self._backend.send(records)

    def _write(self) -> None:
        if ready := self._job.take_ready():
            self._output.write(b"".join([chunk.output for chunk in ready]))
            self._errors.write(b"".join([chunk.errors for chunk in ready]))

    def _measure(self, meter: Meter, now: float) -> Progress:
        assert self._input is not None
        job = self._job
        return meter.measure(now, self._read_lines, job.answered, job.failed, job.in_flight, self._input.source.share())

    # --- what survives ---

    async def _checkpoint(self, end: str = "", *, rate: float = 0.0) -> None:
        job = self._job
        fresh = job.checkpoint()
        spans = {"done": list(fresh.done), "sent": list(fresh.sent), "alone": list(fresh.alone)}
        entry: dict[str, Any] = {name: value for name, value in spans.items() if value}
        entry |= {
            "at": round(time.time(), 3), "mark": [job.mark.line, job.mark.offset], "read": self._read_lines,
            "output": self._output.size, "errors": self._errors.size, "answered": job.answered, "failed": job.failed,
            "rate": round(rate, 1), "places": self._backend.places(), "answers": job.watermark.low(),
        }  # fmt: skip
        if fresh.logged:
            entry["logged"] = sorted(fresh.logged)
        if end:
            entry["end"] = end
        await asyncio.to_thread(self._save, entry)

    def _save(self, entry: dict[str, Any]) -> None:
        self._output.sync()
        self._errors.sync()
        if self._journal is not None:
            self._journal.append(entry)

    async def _end(self) -> str:
        """The last checkpoint; returns how the run ended."""
        end = ""
        if self._job.finished and self._error is None:
            end = "done" if self._request.waits else "sent"
        elif self._begin.folder.cancelled:
            await self._backend.cancel()
            end = "cancelled"
        if end == "done" and self._request.parquet:
            await self._checkpoint()
            await asyncio.to_thread(self._make_parquet)
        await self._checkpoint(end)
        if end == "done" and self._request.parquet:
            os.unlink(self._output.path)  # noqa: PTH108  # a moment
        return end

    def _make_parquet(self) -> None:
        from penstock.batch.parquet import write_parquet

        write_parquet(Path(self._output.path), Path(self._request.target), self._served.config)

    def close(self) -> None:
        """Close the files."""
        self._output.close()
        self._errors.close()
        if self._journal is not None:
            self._journal.close()
        if self._input is not None and self._reading is None:
            self._input.source.close()
