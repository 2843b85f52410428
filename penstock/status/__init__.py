"""What `penstock status` knows of a fleet, what is wrong with it, and how that is shown.

Decided here: what counts as an anomaly and what to do about it (`anomalies`), what is computed from two readings (`view`), and the
screen (`screen`). Readers: `from_gateway` asks one gateway over HTTP, `from_fleet` reads heartbeats, catalogue, dead topics and
store itself. Invariant: what a reader could not see is None or listed in `FleetView.unseen`, never zero.
Others use `read_gateway`, `FleetReader`, `find_anomalies` and `screen`.
"""
