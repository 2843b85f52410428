"""A full disk without filling one: SQLite's own limit, which fails with the same SQLITE_FULL."""

from __future__ import annotations

import sqlite3


def fill_the_disk(database: sqlite3.Connection) -> None:
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages + 1}")


def free_the_disk(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA max_page_count = 1000000")
