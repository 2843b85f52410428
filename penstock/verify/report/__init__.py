"""How judged runs are reported: exit code, JSON, lines for people, Markdown tables.

Interface: `report.judged_report` for one run, `series.merged` for several; `python -m penstock.verify.report.table` prints tables
of saved reports. Invariant: a run in which nothing was delivered twice proves nothing, and exits with 12. It imports `judge`,
`observe.history` and `plan`.
"""
