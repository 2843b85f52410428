"""One model version that takes requests: its turn, and the path of its batches through the instances.

Decided here: how much may be taken in (`runner.Runner.room`; `memory.QueueMemory`, over all models of the process), when a turn
runs and what it does (`Runner.turn`), which batch runs on which instance and whether it runs on the event loop
(`pipeline.Pipeline`), what becomes of repeated, cancelled and revoked requests (`held.HeldEntries`), how records of the batch lane
are cut and run (`batch_lane.BatchLane`) and answered (`record_answers`), when their topic is read (`batch_topic.BatchTopic`), and
how a version drains and closes (`serving.Serving`). It joins `intake`, `batching`, `instances`, `failures` and `results`, which do
not import each other.

Import `Serving`; `lifecycle` and `metrics` do.

Invariants: all of it runs on the event loop; every entry that was added leaves exactly once; a record is done only after
its answer is in the store. Must not import `lifecycle` or `supervision`.
"""
