"""What a process asks of the operating system: CPU limits and yielding, our own code in
its processes, death with its parent, restart pauses, locks, pipe frames.

Interface: each module; none imports another.
Invariant: no module knows a model, a request or a broker. On systems other than Linux the Linux features do nothing.
Imports only the standard library, so that `cpu_yield` can be called before anything else is imported.
"""
