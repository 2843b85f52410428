"""Which settings of Kafka and Redis break a promise of docs/guarantees.md. Pure: facts in, misconfigurations out.

Interface: `check_kafka`, `check_redis` (one function per setting below them) and `Misconfiguration`; `penstock doctor` prints them.
Invariant: each names the promise, the setting, its value, the value wanted, and the command that sets it. `protocol.transport`
reads the facts; nothing here does I/O.
"""
