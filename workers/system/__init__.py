"""What a process owes its machine: CPU limits, yielding the CPU, dying with its parent, restart pauses, frames in a pipe.

Interface: each module; none knows another.
Invariant: no module knows a model, a request or a broker. On systems other than Linux the Linux features do nothing.
Imports only the standard library, so that `cpu_yield` can be called before anything else is imported.
"""
