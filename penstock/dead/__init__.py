"""Dead letters from an operator's side: what is in the dead topics, why, whether it would happen again, and sending it again.

`letters`, `selection`, `showing`, `redriving` and `verdicts` are pure; `topic` talks to the bus; `folder`, `reproduction` and
`sacrifice` run one record against a model in a process that may die.
"""
