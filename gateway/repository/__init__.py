"""Calls that change which models a fleet serves and what their aliases stand for, as records of the control topic.

Decided here: what a call may ask for (`parameters`), when a load is over and how it went (`progress`), when a change is taken back
(`control`), when a change of aliases is refused, and what it leaves of concurrent ones (`aliases`).
Interface: `control.RepositoryControl`, `aliases.AliasChanges`.
Invariants: a change is one record, and its generation is the record's offset; a load that no worker can do is taken back; a call
that changes something returns once this gateway follows it.
May import `calls` and the modules below it; it knows nothing about HTTP.
"""
