"""HTTP/2 (RFC 9113) as far as a gRPC server needs it, on asyncio's protocols: connections, and the calls on them.

Decided here: which bytes of a peer are a fault of its connection or of one call (`connection`, `frames`), what a call's headers say
(`headers`), when a message is whole, counted and delivered (`messages`, `call`), how much may be sent (`sending`), which frames
may follow a call's end (`past`), and how many frames that advance no call are an attack (`floods`).
Interface: `connection.Connection`, `connection.Endpoint`, `call.Call`.
Invariants: a peer's bytes are bounded by windows until a handler reads them, and a large message is counted before it is kept; a
fault ends one connection and all calls on it; whatever a peer sends raises `Fault` or `FleetError` and nothing else.
"""
