"""The schedules to simulate: `PENSTOCK_SIMULATION_SEEDS=FIRST:COUNT`, or one by `PENSTOCK_SIMULATION_SEED`."""

from __future__ import annotations

import os

COUNT = 1500


def seeds() -> range:
    """The seeds of this test run."""
    if one := os.environ.get("PENSTOCK_SIMULATION_SEED"):
        return range(int(one), int(one) + 1)
    first, _, count = os.environ.get("PENSTOCK_SIMULATION_SEEDS", f"0:{COUNT}").partition(":")
    return range(int(first), int(first) + int(count))
