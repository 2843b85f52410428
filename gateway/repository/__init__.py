"""Calls that change which models a fleet serves and what their aliases stand for, as records of the control topic.

Decided here: when a change of aliases is refused, and what it leaves of concurrent ones (`aliases`).
Interface: `aliases.AliasChanges`.
Invariants: a change is one record; a call that changes something returns once this gateway follows it.
May import `calls` and the modules below it; it knows nothing about HTTP.
"""
