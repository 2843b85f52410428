"""What every process of the fleet does around its work: clock, event loop, signals, background tasks, logs, and its status port.

Decided here: how a process ends (`loop`), what the fleet's clock is (`clock`), how a log line looks and how often it is
repeated (`logs`, `repeats`), what happens to the error of a task that nobody awaits (`tasks`), what `/metrics` and the probes
answer (`status`).

Import the modules. They may import `errors`, `texts` and `urls` of protocol, but no message, port or carrier.
"""
