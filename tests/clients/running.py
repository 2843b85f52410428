"""Runs the checks of a file, and prints what became of each as JSON: one line, the last.

The files `calls_*.py` are programs of the clients' own environment (`.venv-clients`), which has none of our packages.
"""

import asyncio
import inspect
import json
import sys
import traceback


class Place:
    """Where the server is.

    Attributes:
        http, grpc, metrics: host and port.
        root: a PEM file if the server speaks TLS, or "".
    """

    def __init__(self, http, grpc, metrics, root=""):
        self.http, self.grpc, self.metrics, self.root = http, grpc, metrics, root


def run(checks):
    """Call every `check_…` of a module's globals."""
    place = Place(*sys.argv[1:])
    found = {}
    for name, check in list(checks.items()):
        if name.startswith("check_"):
            try:
                done = check(place)
                if inspect.isawaitable(done):
                    asyncio.run(done)
                found[name] = ""
            except BaseException:
                found[name] = traceback.format_exc()
    print(json.dumps(found))
