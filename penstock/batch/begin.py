"""Whether a command begins a job or goes on with one, and under which name."""

from __future__ import annotations

import time
from collections.abc import Sequence

from penstock.batch.journal import Saved, read_journal
from penstock.batch.records import run_name
from penstock.batch.request import Request
from penstock.batch.state import JobFolder, changed, fingerprint
from protocol.errors import Code, FleetError, quoted


class Begin:
    """See the module; holds the folder's lock from `open` on.

    Args:
        request: what is asked for.
        folder: the job's.
        way: how the fleet is reached: a job cannot change from a gateway to a broker or to another prefix.
    """

    def __init__(self, request: Request, folder: JobFolder, way: str) -> None:
        self.request, self.folder, self._way = request, folder, way
        self.fresh = True
        self.saved = Saved()

    def open(self) -> None:
        """Lock the job, and read its journal.

        Raises:
            FleetError: it is another job's, is being submitted, or its input has changed.
        """
        self.folder.lock()
        try:
            self._decide()
        except BaseException:
            self.folder.unlock()
            raise

    def _decide(self) -> None:
        before = read_journal(self.folder.journal)
        asked = self.request.description() | {"way": self._way, "fingerprint": fingerprint(self.request.source)}
        run = 1
        if before is not None:
            differing = [name for name in asked if name != "fingerprint" and asked[name] != before.begin.get(name)]
            why = changed(before.begin.get("fingerprint", {}), asked["fingerprint"])
            ended = before.end in ("done", "cancelled")
            if not (self.request.force or differing or why or before.end == "cancelled"):
                self.fresh, self.saved = False, before
                return
            if not self.request.force and not (ended and (differing or before.end == "cancelled")):
                self._refuse(before, differing, why)
            run = int(before.begin.get("run", 1)) + 1
        self.saved = Saved(begin=asked | {"run": run, "created": time.time()})

    @property
    def journaled(self) -> bool:
        """Whether the job can go on."""
        return self.folder.journal.exists()

    def next_run(self) -> None:
        """Take the next run's name."""
        self.saved.begin["run"] = int(self.saved.begin["run"]) + 1

    def _refuse(self, before: Saved, differing: Sequence[str], why: str) -> None:
        if differing:
            name = differing[0]
            was = before.begin.get(name)
            raise FleetError(
                f"job '{self.folder.name}' was begun with another {name}: {quoted(was)}; give another --job, or --force to start "
                "it again",
                code=Code.ALREADY_EXISTS,
            )
        raise FleetError(
            f"the input of job '{self.folder.name}' has changed since it began: {why}; --force starts the job again",
            code=Code.ALREADY_EXISTS,
        )

    @property
    def run(self) -> str:
        """The run's name in ids."""
        return run_name(self.folder.name, int(self.saved.begin["run"]))
