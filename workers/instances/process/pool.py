"""Where a worker's children come from: template processes, which are there as long as anything may need a child at once.

Invariant: while somebody holds a backend's template it is there, so that a crash costs little more than the model's load; one that
is gone is replaced when it is missed.
"""

from __future__ import annotations

import collections
import threading
from typing import Final

from workers.instances.process.child import Child
from workers.instances.process.forkserver import Template

FRAMEWORKS: Final = {"pytorch": "torch"}
"""Backends whose template has imported their framework: that takes seconds, which every child would need, and starts no thread.

onnxruntime is not among them: its import starts one, and a process with threads cannot be copied.
"""


class Spares:
    """The templates of one worker and who needs them. All of it from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._templates: dict[str, Template] = {}
        self._holders: collections.Counter[str] = collections.Counter()

    def hold(self, backend: str) -> None:
        """Somebody has a child for this backend that may die, or is about to have one."""
        with self._lock:
            self._holders[_framework(backend)] += 1

    def release(self, backend: str) -> None:
        """See `hold`; after the last one the template ends, and with it all its children."""
        framework, template = _framework(backend), None
        with self._lock:
            self._holders[framework] -= 1
            if not self._holders[framework]:
                template = self._templates.pop(framework, None)
        if template is not None:
            template.close()

    def take(self, backend: str) -> Child:
        """A new child for a model of this backend."""
        framework = _framework(backend)
        with self._lock:
            assert self._holders[framework] > 0
            template = self._templates.get(framework)
            if template is None or template.gone:
                template = self._templates[framework] = Template(framework)
            return Child(template)


def _framework(backend: str) -> str:
    return FRAMEWORKS.get(backend, "")
