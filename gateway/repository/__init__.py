"""Calls that change which models a fleet serves, as records of the control topic, and what is said about it.

Decided here: what a call may ask for (`parameters`), when a load is over and how it went (`progress`), and when a change is taken
back (`control`).
Interface: `control.RepositoryControl`.
Invariants: a change is one record, and its generation is the record's offset; a load that no worker can do is taken back; a call
that changes something returns once this gateway follows it.
May import `calls` and the modules below it; it knows nothing about HTTP.
"""
