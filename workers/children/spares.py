"""Where a worker's children come from: its template process, which is there as long as anything may need a child at once.

Invariant: while somebody holds it there is a template, so that a crash costs little more than the model's load; one that is gone is
replaced when it is missed.
"""

from __future__ import annotations

import threading

from workers.children.process import Child
from workers.children.template import Template


class Spares:
    """The template of one worker and who needs it. All of it from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._template: Template | None = None
        self._holders = 0

    def hold(self) -> None:
        """Somebody has a child that may die, or is about to have one."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """See `hold`; after the last one the template ends, and with it all children."""
        with self._lock:
            self._holders -= 1
            template = None
            if not self._holders:
                template, self._template = self._template, None
        if template is not None:
            template.close()

    def take(self) -> Child:
        """A new child."""
        with self._lock:
            assert self._holders > 0
            if self._template is None or self._template.gone:
                self._template = Template()
            return Child(self._template)
