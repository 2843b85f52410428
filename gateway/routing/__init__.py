"""Which partition a group of requests is published to.

Decided here: which worker has the least predicted wait, when a model's traffic is gathered on few workers, and when nothing is
known, so that groups go to the partitions in turn (`router`); what heartbeats say about workers (`capacity`, `loads`).
Others use `Router` and `HeartbeatCapacity`. `Capacity` is the only way by which the router learns about workers.
Invariants: no group is routed to a worker that is silent or draining while another serves; rows that wait are counted out exactly
once; numbers from a heartbeat are checked before they are used.
May import `catalogue` and the modules below it; nothing here publishes.
"""
