"""Processes that simulate beside each other."""

from __future__ import annotations

import concurrent.futures
import sys


def simulation_pool(processes: int) -> concurrent.futures.ProcessPoolExecutor:
    """A pool whose processes are not traced: they inherit the tracer of a coverage run, and its counts in them are never read."""
    return concurrent.futures.ProcessPoolExecutor(processes, initializer=sys.settrace, initargs=(None,))
