"""Batch jobs: a file in, a file out, through a fleet's batch lane (`penstock batch`).

Decided here: what a line of the input means for a model (`columns`), which rows travel together (`packing`), what is sent, awaited
and sent again (`job`), in which order answers are written (`ordering`), and what survives a kill (`journal`, `state`). Interface:
`begin.Begin`, `driver.Runner`, `state.JobFolder`. Invariants: a line of the input gets one line of output or of errors, whatever is
interrupted; the same input always makes the same records with the same ids, so that a resumed job knows what it has sent.
"""
