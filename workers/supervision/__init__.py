"""Supervision: a worker's heartbeats, the supervisor that relays them and restarts it, and the detection of dead workers.

Interface: `supervisor.supervise`; for the worker itself, `heartbeat.HeartbeatSource` and its senders.
Invariants: the supervisor's process imports no framework and no model; a worker is declared dead only by a pulse that no longer
changes (`peers`); a dead member leaves its groups before its successor starts.
Imports nothing from `serving`, `instances` or `backends`.
"""
