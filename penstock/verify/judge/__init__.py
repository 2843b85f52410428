"""Which promises a history keeps and which it breaks. Rules are functions of `Facts` (indexes over plan and history) that yield
`Finding`s: `rules_answers` (I1, I2, I3, I5), `rules_work` (I6, I7, I8, I11), `rules_limits` (I9, I12). `gaps` measures waits after
kills.

Interface: `judge.judge`, `judge.redelivered`, `gaps.gaps`. Invariant: a case that a promise does not cover is excused and counted,
never held against the fleet. Pure: history in, verdicts out. It imports `observe.history`, `plan` and `model`.
"""
