"""Load generator and benchmarks: open- and closed-loop load, the limit (the model called directly), tables and plots.

Read in this order: `arrivals` (when a request is due), `payloads` (bodies and expected answers), `samples` (counts and latencies),
`openloop` (the sender), `connections` and `fleet_target` (the targets), `survey` (our servers alone), `scenarios`, `compare` and
`comparison` (against Triton). README.md has the method and its limits.
"""
