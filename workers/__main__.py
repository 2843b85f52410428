"""`python -m workers`: one worker, configured by `PENSTOCK_*` variables (see `settings`). A supervisor starts it this way."""

from __future__ import annotations

import gc
import os
import signal
import sys

from workers.system import cpu_yield

END_WITHIN = 1.3
"""Seconds, see `protocol.runtime.loop`; less than the supervisor's, after which it removes this worker from its groups."""


def main() -> int:
    """Serve until stopped; the exit code is 2 if a setting or a model is wrong, 1 for any other error."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the worker handles it
    cpu_yield.begin()  # before the imports, which take most of the start
    gc.disable()  # until `app.tune`
    from protocol.errors import FleetError
    from protocol.runtime import logs, loop
    from workers.app import serve
    from workers.settings import from_environment

    environment = os.environ
    logs.configure(environment.get("PENSTOCK_LOG_FORMAT", "human"), environment.get("PENSTOCK_LOG_LEVEL", "info"))
    try:
        loop.run(serve(*from_environment(environment)), END_WITHIN)
    except FleetError as exc:
        print(f"penstock worker: {exc.message}", file=sys.stderr)  # noqa: T201  # the process's last message
        return 1 if exc.retryable else 2
    return 0


if __name__ == "__main__":
    code = main()
    from protocol.runtime import loop

    loop.leave(code)
