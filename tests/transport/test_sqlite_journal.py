from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol.errors import ConfigError, Unavailable
from protocol.transport.embedded.sqlite_journal import APPLICATION_ID, SqliteJournal
from tests.transport.disk import fill_the_disk, free_the_disk

SCHEMA = ("CREATE TABLE words (id INTEGER PRIMARY KEY, word BLOB)",)
ADD = "INSERT INTO words (word) VALUES (?)"


def words(database: sqlite3.Connection) -> list[object]:
    return [word for (word,) in database.execute("SELECT word FROM words ORDER BY id")]


def overwrite(path: Path, raw: bytes, at: int = 0) -> None:
    with path.open("r+b" if at else "wb") as file:
        file.seek(at)
        file.write(raw)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "words.sqlite"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path, SCHEMA, 1, fsync=False)
    await journal.open(words)
    yield journal
    await journal.close()


async def reopened(path: Path) -> list[object]:
    journal = SqliteJournal(path, SCHEMA, 1, fsync=True)
    try:
        return await journal.open(words)
    finally:
        await journal.close()


async def test_what_was_submitted_is_there_after_a_restart_in_order(journal: SqliteJournal, path: Path) -> None:
    applied: list[int] = []
    done = [journal.submit([(ADD, [(n,), (n + 0.5,)])], lambda n=n: applied.append(n)) for n in range(50)]
    await asyncio.gather(*done)
    assert applied == list(range(50))
    await journal.close()
    assert await reopened(path) == [n / 2 for n in range(100)]


async def test_what_waits_goes_in_one_group(journal: SqliteJournal) -> None:
    first = journal.submit([(ADD, [(0,)])])
    rest = [journal.submit([(ADD, [(n,)])]) for n in range(1, 100)]
    await first
    assert not any(done.done() for done in rest)
    await rest[0]
    assert all(done.done() for done in rest)


async def test_nothing_to_write_waits_for_what_is_being_written(journal: SqliteJournal) -> None:
    assert journal.submit([], lambda: "idle").result() == "idle"
    told: list[str] = []
    journal.submit([(ADD, [(1,)])], lambda: told.append("written"))
    after = journal.submit([], lambda: told.append("asked"))
    assert not after.done()
    await after
    assert told == ["written", "asked"]


async def test_an_operation_whose_caller_went_away_is_applied(journal: SqliteJournal) -> None:
    applied = asyncio.Event()
    journal.submit([(ADD, [(1,)])], applied.set).cancel()
    await asyncio.wait_for(applied.wait(), 5)
    assert await journal.query(words) == [1]


async def test_closing_writes_what_waits(journal: SqliteJournal, path: Path) -> None:
    done = [journal.submit([(ADD, [(n,)])]) for n in range(3)]
    await journal.close()
    assert all(one.done() and one.exception() is None for one in done)
    assert await reopened(path) == [0, 1, 2]
    with pytest.raises(Unavailable, match="is closed"):
        await journal.submit([(ADD, [(1,)])])
    with pytest.raises(Unavailable, match="is closed"):
        await journal.query(words)
    assert not await journal.healthy()
    await journal.close()


async def test_a_full_disk_fails_the_group_and_all_that_waits_and_passes(journal: SqliteJournal) -> None:
    failures: list[bool] = []
    applied: list[int] = []
    journal.on_failure = lambda: failures.append(True)
    await journal.query(fill_the_disk)
    done = [journal.submit([(ADD, [(bytes(100_000),)])])]
    done += [journal.submit([(ADD, [(n,)])], lambda n=n: applied.append(n)) for n in range(3)]
    outcomes = await asyncio.gather(*done, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 4
    assert "words.sqlite cannot be written: database or disk is full" in str(outcomes[0])
    assert (failures, applied) == ([True], [])
    await journal.query(free_the_disk)
    assert await journal.healthy()
    await journal.submit([(ADD, [(b"later",)])])
    assert await journal.query(words) == [b"later"]


async def test_it_is_not_healthy_until_it_can_write_again(journal: SqliteJournal) -> None:
    await journal.query(lambda database: database.execute("PRAGMA query_only = 1").close())
    assert await journal.healthy()
    with pytest.raises(Unavailable, match="attempt to write a readonly database"):
        await journal.submit([(ADD, [(1,)])])
    assert not await journal.healthy()
    await journal.query(lambda database: database.execute("PRAGMA query_only = 0").close())
    assert await journal.healthy()


async def test_what_cannot_be_read_is_unavailable(journal: SqliteJournal) -> None:
    with pytest.raises(Unavailable, match=r"words\.sqlite cannot be read: no such table: missing"):
        await journal.query(lambda database: database.execute("SELECT * FROM missing").fetchall())


async def test_a_new_folder_is_only_for_its_user(journal: SqliteJournal, path: Path) -> None:
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("fsync", "level"), [(False, 1), (True, 2)])
async def test_fsync_makes_every_commit_wait_for_the_disk(path: Path, fsync: bool, level: int) -> None:
    journal = SqliteJournal(path, SCHEMA, 1, fsync=fsync)
    await journal.open(words)
    pragmas = "synchronous", "journal_mode"
    assert await journal.query(lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]) == [
        level,
        "wal",
    ]
    await journal.close()


async def test_one_process_at_a_time(journal: SqliteJournal, path: Path) -> None:
    other = SqliteJournal(path, SCHEMA, 1, fsync=False)
    with pytest.raises(ConfigError, match=f"--data-dir {path.parent} is in use by another process"):
        await other.open(words)
    await journal.submit([(ADD, [(1,)])])
    await journal.close()
    assert await reopened(path) == [1]


async def test_a_file_that_is_not_a_database(path: Path) -> None:
    path.parent.mkdir()
    overwrite(path, b"not a database, but long enough to have a header of one hundred bytes" * 10)
    with pytest.raises(
        ConfigError, match=r"words\.sqlite is damaged or is not a Penstock file .*name another --data-dir"
    ):
        await reopened(path)


async def test_a_damaged_file(journal: SqliteJournal, path: Path) -> None:
    await journal.submit([(ADD, [(bytes(2000),) for _ in range(50)])])
    await journal.close()
    overwrite(path, b"\xff" * 4096 * 10, 4096 * 2)
    with pytest.raises(ConfigError, match=r"words\.sqlite is damaged"):
        await reopened(path)


async def test_a_file_that_the_reader_does_not_understand(journal: SqliteJournal, path: Path) -> None:
    await journal.close()

    def confused(database: sqlite3.Connection) -> None:
        raise ValueError("a gap")

    with pytest.raises(ConfigError, match=r"words\.sqlite is damaged or is not a Penstock file \(a gap\)"):
        await SqliteJournal(path, SCHEMA, 1, fsync=False).open(confused)
    assert await reopened(path) == []


async def test_another_programs_database(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (id)")
    with pytest.raises(ConfigError, match="is another program's file"):
        await reopened(path)


async def test_a_file_of_another_version(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE words (id)")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(ConfigError, match="has format 7, this version of Penstock reads 1"):
        await reopened(path)


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError, match=r"--data-dir .*data cannot be used"):
        await reopened(tmp_path / "data" / "words.sqlite")


async def test_an_apply_that_raises_fails_only_its_own_operation(journal: SqliteJournal) -> None:
    applied: list[int] = []

    def confused() -> None:
        raise ValueError("confused")

    first = journal.submit([(ADD, [(1,)])], confused)
    second = journal.submit([(ADD, [(2,)])], lambda: applied.append(2))
    with pytest.raises(ValueError, match="confused"):
        await first
    await second
    assert applied == [2]
