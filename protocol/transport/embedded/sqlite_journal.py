"""One SQLite file, written in groups by its own thread: all operations that wait when the thread becomes free share a transaction.

Invariants:
- operations become durable in the order of `submit`, and each is applied on the event loop only after that;
- a group fails as a whole, together with everything submitted up to then; exactly what is on disk was applied;
- one process at a time has the file open.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from protocol.errors import CodecError, ConfigError, Unavailable

T = TypeVar("T")

Statement = tuple[str, Sequence[Sequence[object]]]
"""SQL, and the rows to run it with."""

APPLICATION_ID: Final = 0x50454E53
"""Marks the files as ours, in SQLite's own header field."""
CHECKPOINT_PAGES: Final = 4000
"""The write-ahead log goes into the file every 16 MB."""
_COMMON: Final = "CREATE TABLE probe (id INTEGER PRIMARY KEY, at REAL NOT NULL)"
_PROBE: Final = "INSERT OR REPLACE INTO probe VALUES (0, ?)"


@dataclasses.dataclass(slots=True)
class _Operation:
    statements: Sequence[Statement]
    apply: Callable[[], Any]
    done: asyncio.Future[Any]


class SqliteJournal:
    """A durable file and its writer thread.

    Args:
        path: of the file; its folder is created, readable by this user only.
        schema: `CREATE` statements of a new file.
        version: of the schema; a file with another version is refused.
        added: `CREATE … IF NOT EXISTS` of tables that files of this version may lack.
        fsync: every acknowledged write survives a power loss, not only a kill.

    Attributes:
        on_failure: called when operations failed: state that ran ahead of the disk must be corrected.
    """

    def __init__(
        self, path: Path, schema: Sequence[str], version: int, *, fsync: bool, added: Sequence[str] = ()
    ) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        self._path = path
        self._schema = (_COMMON, *schema)
        self._added = added
        self._version = version
        self._fsync = fsync
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None
        self._waiting: list[_Operation] = []
        self._writing: asyncio.Future[None] | None = None
        self._failed = False
        self._closing = False

    async def open(self, load: Callable[[sqlite3.Connection], T]) -> T:
        """Open or create the file, and read from it.

        Raises:
            ConfigError: another process has it, it is not ours, it is damaged, or the folder cannot be used.
        """
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"sqlite-{self._path.stem}")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._open, load)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write pending operations, and close the file."""
        if self._thread is None or self._closing:
            return
        self._closing = True
        while self._writing is not None:
            await asyncio.wait([self._writing])
            # The callback that starts the next group runs after this task was woken.
            await asyncio.sleep(0)
        thread, self._thread = self._thread, None
        await asyncio.get_running_loop().run_in_executor(thread, self._close)
        thread.shutdown()
        self._closing = False

    async def healthy(self) -> bool:
        """Whether the file can be written: assumed after a success, tried after a failure."""
        if self._thread is None or self._closing:
            return False
        if self._failed:
            try:
                await self.submit([(_PROBE, [(time.time(),)])])
            except Unavailable:
                return False
        return True

    def submit(
        self, statements: Sequence[Statement], apply: Callable[[], T | None] = lambda: None
    ) -> asyncio.Future[T]:
        """Make these durable, then call `apply` on the event loop; the future has its result.

        Without statements it waits for earlier operations.

        Raises:
            Unavailable: (in the future) not written; nothing was applied.
        """
        done = asyncio.get_running_loop().create_future()
        if self._thread is None or self._closing:
            done.set_exception(Unavailable(f"{self._path} is closed"))
        elif not statements and self._writing is None:
            done.set_result(apply())
        else:
            self._waiting.append(_Operation(statements, apply, done))
            if self._writing is None:
                self._write_next()
        return done

    async def query(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Read in the thread, after the group that is being written.

        Raises:
            Unavailable: the file cannot be read.
        """
        if self._thread is None or self._closing:
            raise Unavailable(f"{self._path} is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: read(self._connection()))
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path} cannot be read: {error}") from error

    # --- on the event loop -------------------------------------------------------------------------------------------

    def _write_next(self) -> None:
        group, self._waiting = self._waiting, []
        statements = [statement for operation in group for statement in operation.statements]
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, statements)
        self._writing.add_done_callback(lambda written: self._written(group, written))

    def _written(self, group: list[_Operation], written: asyncio.Future[None]) -> None:
        self._writing = None
        error = written.exception()
        self._failed = error is not None
        if error is not None:
            group += self._waiting
            self._waiting = []
            why = f"{self._path} cannot be written: {error}"
            for operation in group:
                if not operation.done.done():
                    operation.done.set_exception(Unavailable(why, retry_after=1.0))
            self.on_failure()
            return
        for operation in group:
            self._apply(operation)
        if self._waiting:
            self._write_next()

    def _apply(self, operation: _Operation) -> None:
        try:
            result = operation.apply()
        except Exception as error:
            if not operation.done.done():
                operation.done.set_exception(error)
        else:
            if not operation.done.done():
                operation.done.set_result(result)

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _connection(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database

    def _open(self, load: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = database = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            self._prepare(database)
            return load(database)
        except OSError as error:
            raise ConfigError(f"--data-dir {self._path.parent} cannot be used: {error.strerror or error}") from error
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise ConfigError(
                    f"--data-dir {self._path.parent} is in use by another process; stop it, or give each its own folder"
                ) from error
            raise ConfigError(f"{self._path} cannot be opened: {error}") from error
        except (sqlite3.DatabaseError, ValueError, CodecError) as error:
            raise ConfigError(
                f"{self._path} is damaged or is not a Penstock file ({error}); restore it, or name another --data-dir"
            ) from error

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if tables and application != APPLICATION_ID:
            raise ConfigError(f"{self._path} is another program's file; name another --data-dir")
        if tables and version != self._version:
            raise ConfigError(
                f"{self._path} has format {version}, this version of Penstock reads {self._version}; name another --data-dir"
            )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'NORMAL'}")
        database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        database.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * 4096}")
        database.execute("BEGIN IMMEDIATE")
        if not tables:
            for create in self._schema:
                database.execute(create)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {self._version}")
        for create in self._added:
            database.execute(create)
        database.execute("COMMIT")

    def _write(self, statements: Sequence[Statement]) -> None:
        database = self._connection()
        database.execute("BEGIN IMMEDIATE")
        try:
            for sql, rows in statements:
                database.executemany(sql, rows)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()
