"""A heartbeat in parts, so that only what changes is written and read: pulse, description, loads. Pure.

| part | has | is written |
| --- | --- | --- |
| pulse | incarnation, time, whether it drains; the revisions of the other parts | twice a second |
| description | process, groups, models with state, files, partitions, and their numbers then; control | when it changes |
| loads | the numbers of the models whose numbers have changed since | when it changes |

A revision is a hash of a part's bytes, so that two writers of one worker's heartbeat (its process and its supervisor) need not
agree on anything. The numbers of a model are packed by themselves and unpacked only when somebody looks at them.

Decided here: the bytes of each part (`encoding`), which parts are written (`writing`) and read (`reading`), and when the numbers
of a model are unpacked (`loads`). Not decided here: how parts are stored (`protocol.transport.redis.directory`).

Invariants: what a reader returns has once been written as a whole, except for the time; a part that is lost, stale or unreadable
costs at most that worker's heartbeat until the next one is written; any bytes give a value or `CodecError`.
"""

from protocol.heartbeat_parts.encoding import decode_pulse, encode_pulse, revision
from protocol.heartbeat_parts.loads import Loads, facts_of
from protocol.heartbeat_parts.reading import BeatReader
from protocol.heartbeat_parts.writing import REWRITE, SETTLE, BeatWriter, Parts

__all__ = [
    "REWRITE",
    "SETTLE",
    "BeatReader",
    "BeatWriter",
    "Loads",
    "Parts",
    "decode_pulse",
    "encode_pulse",
    "facts_of",
    "revision",
]
