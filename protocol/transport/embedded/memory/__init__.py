"""The transport of one process, in memory: the quick start, the test bed, and `penstock serve` without `--data-dir`.

Buses (`bus`) that share a `MemoryBroker`, and stores (`store`) that share a `MemoryServer`, behave like the processes of a fleet.
"""

from protocol.transport.embedded.memory.bus import MemoryBus
from protocol.transport.embedded.memory.store import RESULTS_LIMIT, MemoryServer, MemoryStore

__all__ = ["RESULTS_LIMIT", "MemoryBus", "MemoryServer", "MemoryStore"]
