"""The first module of the command `penstock`. Ctrl-C ends the process at once and silently until the command installs its own
handler: nothing runs yet, and Python's default would raise in the middle of an import.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """The entry point."""
    from penstock.cli import main as run

    run()
