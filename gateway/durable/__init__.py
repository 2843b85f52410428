"""Calls that outlive their connection: those with an `Idempotency-Key`, and asynchronous ones.

Decided here: whether a call runs, attaches to a running one or gets a kept answer (`claims`), and the status, the answer and the
cancellation of a request by id or handle (`requests`).
Others use `Claims`, `Requests` and `RequestStatus`.
Invariants: a call is claimed in the result store before it is published; after a 202 its record is in the log.
May import `calls` and below; it knows nothing about HTTP.
"""
