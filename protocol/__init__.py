"""What crosses a process boundary in Penstock, and the transports that carry it.

Decided here: every byte on the wire (README.md; golden files pin it), every name of a topic, key and channel, the error codes, and
what a model configuration means. Not decided here: when a message is sent, and how it is handled.

Any module may be imported from outside, the carriers only through `transport.open_transport`. Read in this order: `errors`,
`tensors` and `messages` (the messages), `codec`, `heartbeat_codec` and `v2` (their bytes), `naming` (where they go),
`ports` (what a carrier must do), `transport` (the carriers).

Invariants: codecs are pure, and any input gives a value or a `FleetError`. Imports nothing of ours.
"""
