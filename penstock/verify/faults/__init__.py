"""How each fault is injected and undone: signals, proxies, clocks, and commands that the user supplies.

Interface: `FaultInjector.inject`, which returns when the fault is over and has noted it in the history. Invariant: a fault that
could not be injected says why in its `note` and excuses nothing. It imports `fleet`, `observe`, `model` and `plan`.
"""
