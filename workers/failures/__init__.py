"""A batch that crashed, hung or failed: who is to blame, and what runs again.

Decided here: what kind of failure an error is (`classify.cause_of`), which requests run again together and which are to blame
(`bisection.Bisection`), when the model is at fault and not its requests, how many rows memory is enough for and when a batch hangs
(`limits`). Carried out here: running a failed batch in parts (`isolation.Isolation`), and killing a batch that hangs
(`hang_watch`).

Import `Isolation`, `Part`, `BatchOwner`, `HangWatch`, `into_parts` and `attempts_exhausted`; only `serving` does.

Invariants: a request is blamed only for a run in which it was alone; every request of a failed batch is answered, dead-lettered or
handed back exactly once. Must not import `intake`, `results` or `serving`.
"""
