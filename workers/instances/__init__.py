"""Loaded instances and how a batch runs on one: in a thread of the worker (`executor`) or in a process of its own (`process`).

Decides which instance takes the next batch (`executor.next_free`), which batches run on the event loop (`inline_policy`), what a
warm-up sends (`warmup`), and how a job reports failure (`job`).

Interface: `job` (`Entry`, `Job`, `Executor`, `InstanceDied`, `ModelRaised`), `executor.Completions`, `loaded.LoadedModel`.
Invariants: an instance runs one batch at a time and holds at most `executor.DEPTH`; loading, running and closing happen on one
thread; a job always comes back, unless its executor is closed.
Imports nothing from `serving`, `lifecycle`, `failures` or `intake`.
"""
