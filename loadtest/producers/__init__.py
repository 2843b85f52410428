"""Benchmarks of batch producers: files, packed records, the two lanes, and a million rows through a fleet that breaks.

Decided here: what is measured and against what. `rows` writes the files, `loop` is the limit that a file is compared with, `files`,
`packed`, `lanes` and `million` each measure one thing, `report` writes the page. Interface: `cli.main`.
Invariant: servers, submitter and limit run on the same core wherever a ratio is given.
"""
