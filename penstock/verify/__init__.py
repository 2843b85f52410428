"""The shipped checker: faults by plan, traffic by seed, and verdicts from what callers saw and what Kafka and Redis hold.

`plan`, `history` and `judge` are pure: a seed gives a plan, a run gives a history, a history gives verdicts. `run` puts the drivers
together. Nothing here asks the fleet how it is doing.
"""
