"""The transport of a process that takes calls, over a socket to the process that has the log and the models.

It offers what a gateway needs (`bus`, `store`, on `calls`); `server` answers in the other process. Reading a topic as a member of a
group is for workers, which are in the process with the log. Both ends write `frames`, whose values `values` knows, on a `link`.
"""

from protocol.transport.embedded.remote.bus import RemoteBus
from protocol.transport.embedded.remote.calls import RemoteCalls
from protocol.transport.embedded.remote.store import RemoteStore

__all__ = ["RemoteBus", "RemoteCalls", "RemoteStore"]
