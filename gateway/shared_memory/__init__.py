"""System shared memory: POSIX regions that a client on this machine registers, reads its outputs from and writes its inputs to.

Decided here: which names and keys are taken, and which parts of a region a request may touch. Copied once in either direction, with
`pread` and `pwrite`: a client that shortens its region gets an error, where a mapping would kill the gateway with SIGBUS.
Invariants: a key names a file in /dev/shm and nothing else; numbers and sizes are bounded; nothing is read or written outside the
registered part. Off unless allowed. Imports nothing of `gateway`.
"""

from gateway.shared_memory.regions import Region, Regions

__all__ = ["Region", "Regions"]
