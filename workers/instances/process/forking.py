"""The inside of the template process: it makes copies of itself, and tells the worker when one has ended.

Invariants: it runs nothing else and has no second thread, so a copy starts from a known state; a copy dies with the template, and
the template with the worker; what a copy has started is killed once the copy has ended. A copy adopts the orphans below it while it
lives, and the template adopts them when it has ended: a child of the template that is no copy is one that a dead copy has left.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from types import FrameType

from workers.instances.process.channel import Broken, Line, packed
from workers.system import cpu_yield
from workers.system.parent_death import adopt_orphans, children, die_with


class Copies:
    """The template's loop.

    Args:
        end: of the socket pair to the worker.
        worker: the number of its process.
    """

    def __init__(self, end: socket.socket, worker: int) -> None:
        self._end = end
        self._worker = worker
        self._alive: set[int] = set()
        self._line = Line(end)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def serve(self) -> socket.socket | None:
        """Make copies until the worker hangs up, and return None then; in each copy, return the socket of its orders."""
        asked = self._end.fileno()
        adopt_orphans()
        # Of the signals to end only the one at the worker's death counts (`die_with`): a service manager may send its own to all
        # processes of a service, while the worker still answers what it has.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _wake_up)
        signal.set_wakeup_fd(self._writer)
        with contextlib.suppress(Broken):
            while os.getppid() == self._worker:
                ready, _, _ = select.select([asked, self._reader], [], [])
                if self._reader in ready:
                    os.read(self._reader, 4096)
                    self._reap()
                if asked in ready:
                    _, (line, output) = self._line.receive()
                    if (born := self._copy(line, output)) is not None:
                        return born
        self._end_all()
        return None

    def _copy(self, line: int, output: int) -> socket.socket | None:
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            return self._begin(template, line, output)
        self._alive.add(pid)
        os.close(line)
        os.close(output)
        self._line.send(packed({"made": pid}))
        return None

    def _begin(self, template: int, line: int, output: int) -> socket.socket:
        """The first steps of a copy: nothing of the template's remains but what is loaded."""
        die_with(template)
        adopt_orphans()
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (self._reader, self._writer):
            os.close(descriptor)
        self._line.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.set_inheritable(line, False)
        if (random := sys.modules.get("numpy.random")) is not None:
            random.seed()  # Python's own generator is seeded anew in every copy, NumPy's is not
        return socket.socket(fileno=line)

    def _reap(self) -> None:
        while (ended := _ended())[0]:
            pid, status = ended
            copy = pid in self._alive
            self._alive.discard(pid)
            if copy:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            self._kill_orphans()  # each that ends may leave others
            if copy:
                self._line.send(packed({"ended": pid, "code": os.waitstatus_to_exitcode(status)}))

    def _kill_orphans(self) -> None:
        for pid in set(children()) - self._alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """The worker is gone, or wants no copies any more, and waits for that."""
        cpu_yield.end()
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, 0)
                self._alive.discard(pid)
                self._kill_orphans()


def _ended() -> tuple[int, int]:
    """The number and status of a copy that has ended; 0 where there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _wake_up(number: int, frame: FrameType | None) -> None:
    """Python writes to the wake-up descriptor; nothing else is to be done."""
