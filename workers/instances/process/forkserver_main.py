"""The fork server's process, `python -m workers.instances.process.forkserver_main FD PARENT FRAMEWORK`; `forkserver` starts it.

FD is its end of the channel to the worker, PARENT the worker's process number, FRAMEWORK a module to import first, or "".

Invariants: this process forks and does nothing else, and it has no second thread, so a child starts from a known state. A child
dies with the fork server, the fork server with the worker; the processes that a child has started are killed once it has exited. A
child adopts the orphans below it while it lives, and the fork server adopts them afterwards: each of its own children that it did
not fork is one that a dead child has left behind.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import types
from types import FrameType

import workers.backends.python  # noqa: F401  # most children run Python models
from workers.instances.process import child_main
from workers.instances.process.channel import Channel, ChannelBroken, encode_message
from workers.system import cpu_yield
from workers.system.parent_death import adopt_orphans, children, die_with


def main() -> int:
    """Serve until the worker closes the channel; in each child, serve as that child."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent, signal.SIGTERM)
    cpu_yield.begin()  # for good: the worker waits for forks, not for this process
    _restore_environment()
    gc.disable()
    if framework := sys.argv[3]:
        with contextlib.suppress(Exception):  # a child whose model needs it meets the error again, and reports it
            importlib.import_module(framework)
    gc.freeze()
    gc.enable()
    commands = ForkLoop(socket.socket(fileno=descriptor), parent).serve()
    if commands is not None:
        child_main.serve(commands)
        return 0
    os._exit(0)  # nothing is left to clean up, and the worker waits


def _restore_environment() -> None:
    """Give models the environment of a program of their own: the folder of this package (see `forkserver.child_environment`) leaves
    the path, and processes that a model starts, which import the main module, find an empty one."""
    home = os.environ.pop("PENSTOCK_CHILD_HOME", "")
    if home:
        sys.path.remove(home)
        _, _, rest = os.environ.pop("PYTHONPATH").partition(os.pathsep)
        if rest:
            os.environ["PYTHONPATH"] = rest
    sys.modules["__main__"] = types.ModuleType("__main__")


class ForkLoop:
    """Forks on request, and reports exited children to the worker.

    Args:
        end: of the channel to the worker.
        worker: the number of its process.
    """

    def __init__(self, end: socket.socket, worker: int) -> None:
        self._end = end
        self._worker = worker
        self._alive: set[int] = set()
        self._channel = Channel(end)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def serve(self) -> socket.socket | None:
        """Fork until the worker closes the channel, and return None then; in each child, return the socket of its commands."""
        asked = self._end.fileno()
        adopt_orphans()
        # The worker's death is reported by SIGTERM (`die_with`) and seen below as another parent. Other signals to end are ignored:
        # a service manager may send them to all processes of a service while the worker still drains.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _wake_up)
        signal.set_wakeup_fd(self._writer)
        with contextlib.suppress(ChannelBroken):
            while os.getppid() == self._worker:
                ready, _, _ = select.select([asked, self._reader], [], [])
                if self._reader in ready:
                    os.read(self._reader, 4096)
                    self._reap()
                if asked in ready:
                    _, (commands, output) = self._channel.receive_message()
                    if (own := self._fork(commands, output)) is not None:
                        return own
        self._end_all()
        return None

    def _fork(self, commands: int, output: int) -> socket.socket | None:
        forkserver = os.getpid()
        pid = os.fork()
        if pid == 0:
            return self._become_child(forkserver, commands, output)
        self._alive.add(pid)
        os.close(commands)
        os.close(output)
        self._channel.send_message(encode_message({"forked": pid}))
        return None

    def _become_child(self, forkserver: int, commands: int, output: int) -> socket.socket:
        """A child's first steps: of the fork server only the loaded modules remain."""
        die_with(forkserver)
        adopt_orphans()
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (self._reader, self._writer):
            os.close(descriptor)
        self._channel.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.set_inheritable(commands, False)
        if (random := sys.modules.get("numpy.random")) is not None:
            random.seed()  # Python's own generator is seeded anew in every child, NumPy's is not
        return socket.socket(fileno=commands)

    def _reap(self) -> None:
        while (exited := _exited())[0]:
            pid, status = exited
            forked = pid in self._alive
            self._alive.discard(pid)
            if forked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            self._kill_orphans()  # each that ends may leave others
            if forked:
                self._channel.send_message(encode_message({"exited": pid, "code": os.waitstatus_to_exitcode(status)}))

    def _kill_orphans(self) -> None:
        for pid in set(children()) - self._alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """The worker is gone, or needs no more children and waits for their exit."""
        cpu_yield.end()
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, 0)
                self._alive.discard(pid)
                self._kill_orphans()


def _exited() -> tuple[int, int]:
    """The number and status of a child that has exited; 0 for none."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _wake_up(number: int, frame: FrameType | None) -> None:
    """Python writes to the wake-up descriptor; the handler itself has nothing to do."""


if __name__ == "__main__":
    sys.exit(main())
