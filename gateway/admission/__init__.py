"""Whether a call is accepted, and how many bytes it may hold until it is answered.

Decided here: how many calls, long polls and bytes one gateway holds, in all and per model version (`admission`, `budget`), and how
long a call waits for a model that is not announced yet (`arrivals`).
Others use `Admission`, `Limits`, `Budget`, `Share`, `Budgets` and `Arrivals`.
Invariant: each call that is counted in is counted out exactly once, so every count is 0 when nothing waits.
May import `catalogue` and `protocol`; nothing here publishes or answers.
"""
