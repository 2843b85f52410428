"""Which model versions exist, and which requests fit one.

Decided here: the version that a call means (`catalogue`), whether a request fits its model's configuration (`request_checks`), and
what `/v2/models/stats` and a model's metadata say (`statistics`, from the heartbeats that `heartbeats` asks for).
Others use `Catalogue`, `Served`, `RequestQueue`, `RequestCheck`, `HeartbeatPoller` and the functions of `statistics`.
Invariants: the announcement read last counts; one that cannot be read makes its own version unavailable and no other.
May import `counters` and `protocol`.
"""
