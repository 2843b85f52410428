"""The shipped checker: breaks a fleet by plan, sends it traffic, and judges its promises.

A seed gives a plan (`plan`), a run of it gives a history (`run`, which drives `fleet`, `faults` and `observe`), a history gives
verdicts (`judge`), and verdicts give a report (`report`). `model` is the model that the fleet serves: its answers are a known
function of the input, and it records its own executions.

Interface: `run.run`, `plan.planner.make_plan`, `report.report.judged_report`. Invariant: the judge sees only what callers saw,
raw reads of Kafka and Redis, and the model's record; nothing asks the fleet about itself. It imports `protocol` and
`penstock.client`, never `gateway` or `workers`.
"""
