"""The fleet under test: real `penstock` processes, each behind its own proxies to Redis and Kafka.

Interface: `Fleet` (start, stop, members), `Member` (one process: kill, stop, restart), `watchdog` (kills a run's processes when the
checker dies), and the proxies' `delay`, `cut` and `drop`. Invariant: no process of a run outlives it. It imports only `plan`.
"""
