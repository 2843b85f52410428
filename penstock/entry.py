"""The first module of the command `penstock`: from here on Ctrl-C ends the process at once and without a word, until its command
has said what it does then. Nothing runs yet, so nothing is lost; Python's own way would be an exception in the middle of an import.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """The entry point."""
    from penstock.cli import main as run

    run()
