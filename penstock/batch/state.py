"""The jobs of this machine: a folder for each, its description, its lock and its journal.

The folder is `$PENSTOCK_STATE_DIR/jobs/<job>`, by default `~/.local/state/penstock/jobs/<job>`. Whoever submits holds a lock on its
file `lock`, which the kernel releases however the process ends.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from penstock.batch.journal import FILE, Saved, read_journal
from penstock.batch.records import JOB, check_job
from protocol.errors import Code, ConfigError, FleetError, InvalidArgument, NotFound, Unavailable, quoted

HEAD: Final = 64 * 1024
"""Bytes of the input's beginning that its digest covers."""
_CANCEL: Final = "cancel"
_LOCK: Final = "lock"


def jobs_folder(given: Path | None = None) -> Path:
    """The folder of all jobs."""
    if given is not None:
        return given / "jobs"
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home else Path.home() / ".local" / "state") / "penstock" / "jobs"


def default_name(model: str, source: str, target: str) -> str:
    """The name of a job that was given none: the same for the same model, input and output."""
    parts = (
        model,
        source if source == "-" else str(Path(source).resolve()),
        target if target == "-" else str(Path(target).resolve()),
    )
    digest = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", Path(source).stem).strip("-_")[:40]
    return f"{stem or 'stdin'}-{digest}"


def fingerprint(path: str) -> dict[str, Any]:
    """What tells whether the input has changed: size, time of change and digest of its first `HEAD` bytes; {} for a stream."""
    place = Path(path)
    if path == "-" or not place.is_file():
        return {}
    found = place.stat()
    with place.open("rb") as file:
        head = hashlib.sha256(file.read(HEAD)).hexdigest()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "head": head}


def changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How the input differs from before; "" if it does not."""
    if before == now:
        return ""
    if before.get("size") != now.get("size"):
        return f"it has {now.get('size')} bytes, and had {before.get('size')}"
    if before.get("head") != now.get("head"):
        return "its beginning is another"
    return "it was written since"


@dataclasses.dataclass(frozen=True, slots=True)
class JobState:
    """A job as `penstock batch list` shows it.

    Attributes:
        name: its name.
        state: "running", "stopped", "sent", "done", "cancelled", or "new" before its first line.
        saved: what its journal says.
        pid: of the process that submits; 0 if none does.
    """

    name: str
    state: str
    saved: Saved
    pid: int


class JobFolder:
    """The folder of one job.

    Args:
        root: of all jobs (`jobs_folder`).
        name: of the job.

    Raises:
        InvalidArgument: the name is not allowed.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = check_job(name)
        self.path = root / name
        self.journal = self.path / FILE
        self._lock: BinaryIO | None = None

    def lock(self) -> None:
        """Take the job for this process.

        Raises:
            FleetError: another process has it (ALREADY_EXISTS).
            ConfigError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / _LOCK).open("a+b")
        except OSError as error:
            raise ConfigError(
                f"the job's journal cannot be written to '{self.path}': {error.strerror}; name another folder with --state-dir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise FleetError(
                f"job '{self.name}' is being submitted by process {self.pid() or 'unknown'}; wait for it, or end it with "
                f"penstock batch cancel {self.name}",
                code=Code.ALREADY_EXISTS,
            ) from None
        self._lock.truncate(0)
        self._lock.write(b"%d\n" % os.getpid())
        self._lock.flush()
        (self.path / _CANCEL).unlink(missing_ok=True)

    def unlock(self) -> None:
        """Give the job back."""
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def pid(self) -> int:
        """The process that submits; 0 if none holds the lock."""
        try:
            with (self.path / _LOCK).open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    text = file.read(20).strip()
                    return int(text) if text.isdigit() else 0
        except OSError:
            pass
        return 0

    def state(self) -> JobState | None:
        """The job's state; None if there is no such job."""
        if not self.path.is_dir():
            return None
        saved, pid = read_journal(self.journal), self.pid()
        if saved is None:
            return JobState(self.name, "running" if pid else "new", Saved(), pid) if pid else None
        return JobState(self.name, "running" if pid else saved.end or "stopped", saved, pid)

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called for the process that submits."""
        return (self.path / _CANCEL).exists()

    def stop_submitter(self, within: float) -> bool:
        """Ask the process that submits to cancel the job, and wait for its end; returns whether there was one.

        Raises:
            Unavailable: it does not end.
        """
        pid = self.pid()  # holds the lock now, so that it is this process and no later one of the same number
        if not pid:
            return False
        (self.path / _CANCEL).touch()
        os.kill(pid, signal.SIGINT)
        end = time.monotonic() + within
        while self.pid() == pid:
            if time.monotonic() > end:
                raise Unavailable(f"process {pid}, which submits job '{self.name}', does not end; kill it")
            time.sleep(0.05)
        return True


def find_job(root: Path, name: str) -> tuple[JobFolder, JobState]:
    """A job that is there.

    Raises:
        NotFound: it is not.
    """
    folder = JobFolder(root, name)
    state = folder.state()
    if state is None:
        raise NotFound(f"there is no job {quoted(name)} in {root}; penstock batch list shows those that are")
    return folder, state


def all_jobs(root: Path) -> Iterator[JobState]:
    """Every job, by name; a journal that cannot be read is left out."""
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if JOB.match(path.name) and path.is_dir():
            try:
                state = JobFolder(root, path.name).state()
            except InvalidArgument:
                continue
            if state is not None:
                yield state
