"""Server processes under measurement: started on one core, their CPU seconds and resident memory read from outside.

Invariant: children inherit the core, because the parent sits on it while it starts them; a JVM, too, then sees one processor.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import psutil

from loadtest.interpreters import THIS_ONE, Interpreter
from protocol.errors import Unavailable

MIB: Final = 1 << 20


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Pin this thread, and processes that it starts meanwhile, to one core; a no-op with None or without system support."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def before_all_others() -> Iterator[None]:
    """Let this thread run whenever it can, ahead of every other; a no-op if the system does not allow it. Processes
    started meanwhile run as usual.
    """
    if not hasattr(os, "SCHED_FIFO"):
        yield
        return
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def cores() -> tuple[int | None, int | None]:
    """(server core, load core): the last and the first that this process may use; (None, None) with fewer than two."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[-1], allowed[0]) if len(allowed) > 1 else (None, None)


class ServerProcess:
    """A server as a child process, by default a Python one of ours; its log is kept in a temporary file until it is stopped."""

    def __init__(
        self,
        arguments: Sequence[str],
        core: int | None,
        environment: Mapping[str, str] | None = None,
        *,
        interpreter: Interpreter | None = THIS_ONE,
    ) -> None:
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # closed by stop
        self._line = [interpreter.path, *arguments] if interpreter else list(arguments)
        environment = {**(interpreter.environment if interpreter else {}), **(environment or {})}
        with on_core(core):
            self._process = subprocess.Popen(  # noqa: S603  # the command line is ours
                self._line,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise if the process has ended.

        Raises:
            Unavailable: with its exit status and the end of its log.
        """
        status = self._process.poll()
        if status is not None:
            raise Unavailable(f"{' '.join(self._line)} ended with {status}: {self.log()[-2000:]}")

    def log(self) -> str:
        """What it has written so far."""
        descriptor = self._log.fileno()  # shared with the process: reading must not move its position
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def wait(self, seconds: float) -> None:
        """Wait at most `seconds` for it to end on its own."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def stop(self, grace: float = 20.0) -> int:
        """SIGTERM, after `grace` seconds SIGKILL; the exit status."""
        self._process.terminate()
        try:
            status = self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._log.close()
        return status


class Meter:
    """CPU seconds and resident bytes of named process trees; a tree is a root process and all below it."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = {name: psutil.Process(pid) for name, pid in roots.items()}

    def pid(self, name: str) -> int:
        """The process id of a root."""
        return int(self._roots[name].pid)

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time so far, by name; a process that ended below a living root no longer counts."""
        return {name: sum(map(_cpu, _tree(root))) for name, root in self._roots.items()}

    def memory_mib(self) -> dict[str, float]:
        """Resident memory now, by name."""
        return {name: sum(map(_rss, _tree(root))) / MIB for name, root in self._roots.items()}

    @contextlib.contextmanager
    def window(self) -> Iterator[dict[str, float]]:
        """A dictionary that holds, after the block, the CPU seconds that each name took in it."""
        before, spent = self.cpu_seconds(), dict[str, float]()
        yield spent
        after = self.cpu_seconds()
        spent.update({name: after[name] - before[name] for name in before})


def resident_bytes(pid: int) -> float:
    """Resident memory of a process and all below it; 0 if it has ended."""
    try:
        return sum(map(_rss, _tree(psutil.Process(pid))))
    except psutil.NoSuchProcess:
        return 0.0


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _rss(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0
