"""The transport of one process: bus, result store and directory in memory, or with SQLite files under them (`--data-dir`).

Decided here: which answer of a request is kept (`fence`, the reference that Redis' scripts are compared with), who owns a partition
(`groups`), when a record may be dropped (`broker`, `partition_log`), when a change is durable (`sqlite_journal`), and which calls
another process may make over a socket (`remote.server`; that process has `remote`).

Import `memory.MemoryBus` and `MemoryStore`, `sqlite.SqliteBus` and `SqliteStore` (by `open_transport`), and `broker.MemoryBroker`
or `memory.MemoryServer` where several of them share one state. This room may not import `kafka` or `redis`.

Invariants: `fence` and `groups` are pure; in memory messages pass as they are, and what is kept of answers is bytes; with SQLite no
change is acknowledged, delivered or announced before it is on disk.
"""
