"""The worker's end of a fork server: a process that has Python and this package loaded and forks children in milliseconds.

Forking is safe there, and only there: the fork server (`forkserver_main`) has one thread and no model, has imported at most a
framework (`pool`), and does nothing but fork.
Invariants: the thread that starts the fork server outlives it (on Linux PR_SET_PDEATHSIG fires when that *thread* ends); every
`ForkedProcess.wait` returns, also when the fork server is gone, which no child survives.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping
from typing import Final

import structlog

from workers.instances.process.channel import Channel, ChannelBroken, encode_message
from workers.system import code_path

_PRIVATE: Final = (
    "PENSTOCK_KAFKA", "PENSTOCK_REDIS", "PENSTOCK_API_KEY", "PENSTOCK_SIGNING_SECRET", "PENSTOCK_HEARTBEAT_FD",
)  # fmt: skip
"""Prefixes of variables that only the worker may see."""
STOP_GRACE: Final = 2.0
"""Seconds that a fork server gets to end its children and the processes that they started."""

log = structlog.get_logger(__name__)


class ForkedProcess:
    """A child's process, as the worker knows it.

    Attributes:
        pid: its number, until it has exited.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code = 0
        self._exited = threading.Event()
        self._lock = threading.Lock()
        # A pidfd: by the time of a kill the number may be another process's.
        self._descriptor = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(ProcessLookupError):
                self._descriptor = os.pidfd_open(pid)

    def wait(self) -> int:
        """Its exit code once it has exited; negative for the number of a signal."""
        self._exited.wait()
        return self._code

    def kill(self) -> None:
        """Kill it now; the fork server kills the processes that it has started."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._exited.is_set():
                return
            if self._descriptor >= 0:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def mark_exited(self, code: int) -> None:
        """Its fork server has reaped it."""
        with self._lock:
            self._code = code
            self._exited.set()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


class Forkserver:
    """One fork server of a worker. All methods from any thread.

    Args:
        framework: module that it imports before the first fork; "" for none.
    """

    def __init__(self, framework: str = "") -> None:
        self._framework = framework
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        self._asking = threading.Lock()
        self._processes: dict[int, ForkedProcess] = {}
        self._forked: queue.SimpleQueue[ForkedProcess | None] = queue.SimpleQueue()
        self._gone = False
        self._thread = threading.Thread(target=self._run, args=(theirs,), name="forkserver", daemon=True)
        self._thread.start()

    @property
    def gone(self) -> bool:
        """Whether it no longer forks."""
        return self._gone

    def fork(self, commands: int, output: int) -> ForkedProcess:
        """A new child, which takes its commands from the descriptor `commands` and prints to `output`.

        Raises:
            ChannelBroken: the fork server is gone.
        """
        with self._asking:
            self._channel.send_message(encode_message({"name": "fork"}), (commands, output))
            forked = self._forked.get()
        if forked is None:
            self._forked.put(None)
            raise ChannelBroken("the fork server is gone")
        return forked

    def close(self) -> None:
        """Stop it, and wait until it is gone."""
        self._channel.shut_down()
        self._thread.join()

    def _run(self, theirs: socket.socket) -> None:
        try:
            process = _start(theirs.fileno(), self._framework)
        except OSError as exc:
            log.error("no child processes can be started", error=str(exc))
            process = None
        finally:
            theirs.close()
        with contextlib.suppress(ChannelBroken):
            while process is not None:
                self._handle(*self._channel.receive_message())
        self._gone = True
        if process is not None:
            _stop(process)
        for forked in self._processes.values():
            forked.mark_exited(-signal.SIGKILL)
        self._forked.put(None)
        self._channel.close()

    def _handle(self, message: dict[str, int], descriptors: list[int]) -> None:
        if "forked" in message:
            forked = self._processes[message["forked"]] = ForkedProcess(message["forked"])
            self._forked.put(forked)
        else:
            self._processes.pop(message["exited"]).mark_exited(message["code"])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """It exits on its own once it has ended all processes that its children started."""
    try:
        process.wait(STOP_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start(descriptor: int, framework: str) -> subprocess.Popen[bytes]:
    main = "workers.instances.process.forkserver_main"
    return subprocess.Popen(  # noqa: S603  # all of it is ours
        code_path.run_module(main, str(descriptor), str(os.getpid()), framework),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env=child_environment(os.environ),
        start_new_session=True,  # a terminal's Ctrl-C is the worker's to handle
    )


def child_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The worker's variables without the secret ones, as instances in threads see them, and with this package in the path.

    The path is only needed where the package is not installed, and it must lead to the same code as the worker's.
    """
    chosen = {name: value for name, value in given.items() if not name.startswith(_PRIVATE)}
    if not code_path.installed():
        chosen["PENSTOCK_CHILD_HOME"] = code_path.HOME
    return code_path.with_code_path(chosen)
