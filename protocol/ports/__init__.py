"""The ports: what the fleet requires of its bus, its result store and its directory. The docstrings are the contract.

Decided here: what each call promises, and which error says that it did not happen. `tests/transport` runs one suite over every
carrier (memory, SQLite, Kafka with Redis). A crash between any two calls costs at most a redelivery, never a record; the result
store keeps at most one terminal entry per request; the directory may forget everything at any moment.

Import everything from this package. It may not import `codec`, `naming` or a carrier.
"""

from protocol.ports.bus import (
    NOWHERE,
    Assigned,
    Bus,
    Consumer,
    Headers,
    ImmediateBus,
    Listener,
    OutRecord,
    Place,
    Published,
    Record,
)
from protocol.ports.directory import STATE_ONLY, Directory
from protocol.ports.results import (
    Cancel,
    Claim,
    Claimed,
    ClaimState,
    FinishOutcome,
    ImmediateResults,
    Payload,
    RequestState,
    Results,
    Terminal,
    Wake,
)
from protocol.totals import Counts

__all__ = [
    "NOWHERE",
    "STATE_ONLY",
    "Assigned",
    "Bus",
    "Cancel",
    "Claim",
    "ClaimState",
    "Claimed",
    "Consumer",
    "Counts",
    "Directory",
    "FinishOutcome",
    "Headers",
    "ImmediateBus",
    "ImmediateResults",
    "Listener",
    "OutRecord",
    "Payload",
    "Place",
    "Published",
    "Record",
    "RequestState",
    "Results",
    "Terminal",
    "Wake",
]
