"""What crosses a process boundary in Penstock, and the transports it crosses on.

Read in this order: `errors` (what can go wrong), `tensors` and `messages` (what is said), `codec`, `presence` and `v2` (how it
becomes bytes), `naming` (where it goes), `ports` (who carries it), `transport` (the carriers). Imports nothing of ours.
"""
