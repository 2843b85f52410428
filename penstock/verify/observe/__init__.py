"""What is recorded of a run, and how: callers (`traffic`, over `http`), the log and the store (`log_watch`, through `raw`), memory
(`memory`).

Interface: `History` and its records (pure; the judge's only input), `Traffic`, `LogWatch`, `RawKafka`, `RawRedis`. Invariant:
reads bypass `protocol.transport`, so that a fault in it cannot hide itself. It imports `plan` and, to find processes, `fleet`.
"""
