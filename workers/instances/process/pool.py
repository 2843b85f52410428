"""Where a worker's children come from: one fork server per framework, alive as long as an instance may need a child at once.

Invariant: while a backend is held its fork server runs, so that a crash costs little more than the model's load; one that has died
is replaced at the next `take`.
"""

from __future__ import annotations

import collections
import threading
from typing import Final

from workers.instances.process.child import Child
from workers.instances.process.forkserver import Forkserver

FRAMEWORKS: Final = {"pytorch": "torch"}
"""Backends whose fork server imports their framework: the import takes seconds, which every child would need, and starts no thread.

onnxruntime is not among them: its import starts a thread, and a process with threads must not fork.
"""


class ChildPool:
    """The fork servers of one worker, counted by their holders. All methods from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forkservers: dict[str, Forkserver] = {}
        self._holders: collections.Counter[str] = collections.Counter()

    def hold(self, backend: str) -> None:
        """Keep this backend's fork server: the caller has a child that may die, or is about to take one."""
        with self._lock:
            self._holders[_framework(backend)] += 1

    def release(self, backend: str) -> None:
        """Undo one `hold`; with the last one the fork server ends, and all its children with it."""
        framework, forkserver = _framework(backend), None
        with self._lock:
            self._holders[framework] -= 1
            if not self._holders[framework]:
                forkserver = self._forkservers.pop(framework, None)
        if forkserver is not None:
            forkserver.close()

    def take(self, backend: str) -> Child:
        """A new child for a model of this backend."""
        framework = _framework(backend)
        with self._lock:
            assert self._holders[framework] > 0
            forkserver = self._forkservers.get(framework)
            if forkserver is None or forkserver.gone:
                forkserver = self._forkservers[framework] = Forkserver(framework)
            return Child(forkserver)


def _framework(backend: str) -> str:
    return FRAMEWORKS.get(backend, "")
