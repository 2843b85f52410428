"""The result store and the directory on Redis (6.2 or newer), through redis-py's connections.

Decided here: which answer of a request is kept and who is woken (`scripts/*.lua`, atomically), what Redis' errors mean and when a
request is sent again (`client`), which server is the primary (`sentinel`), and what a Redis URL may say (`address`).

Import `store.RedisStore` (by `open_transport`), `address.Address`, `connection.Connection` (tools) and `facts.read_redis`. This
room may not import `kafka` or `embedded`; only `tests/transport` compares the scripts with their reference, `embedded.fence`.

Invariants: only the scripts write result streams; every call may be repeated; private names of redis-py are in `redis_internals`
only.
"""
