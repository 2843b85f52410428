"""How much work waits, how long it will take, and how many workers it needs.

Decided here: how fast rows arrive and workers run them (`pace`), when the backlog is drained and how many workers that takes
(`drain`), when that number may fall (`wanted`), what a worker says of a version (`worker`), and what is known of each version
(`fleet`). `reading` looks into the logs of topics that no worker owns, `report` writes JSON, `metrics` exports gauges.
Others use `FleetScaling`, `LogReader`, `Policy`, `ScalingMetrics` and the functions of `report`.
Invariants: a request that may be unanswered counts until it is known to be answered, so one request is enough to wake a worker; the
number of wanted workers never falls below what any moment of the last window needed.
May import `backlog`, `routing` and `catalogue`; nothing here publishes or answers.
"""
