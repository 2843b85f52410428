"""What `penstock doctor` reports about live workers, from their heartbeats and the broker's topics. Pure."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from protocol.messages import Heartbeat, ModelState
from protocol.naming import Names

_SHOWN: Final = 12
"""Characters of a digest."""


def judged(beats: Sequence[Heartbeat], topics: Collection[str], names: Names) -> Iterator[tuple[str, str]]:
    """States and texts: how many workers serve how many model versions, and where they disagree.

    Args:
        beats: recent heartbeats.
        topics: the broker's topics.
        names: the fleet's names.
    """
    serving: dict[tuple[str, str], dict[str, list[str]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for beat in beats:
        for load in beat.models:
            if load.state is ModelState.READY:
                serving[load.model, load.version][load.digest].append(beat.worker)
    if not beats:
        yield "warning", f"no worker with prefix '{names.prefix}' is alive: penstock worker"
    else:
        yield "ok", f"{len(beats)} worker(s) serve {len(serving)} model version(s)"
    for (model, version), by_digest in sorted(serving.items()):
        known = {digest: workers for digest, workers in by_digest.items() if digest}
        if len(known) > 1:
            sets = "; ".join(
                f"{digest[:_SHOWN]} on {', '.join(sorted(workers))}" for digest, workers in sorted(known.items())
            )
            text = (
                f"model '{model}' version {version} is served from {len(known)} different sets of files, so that answers depend on "
                f"the worker: {sets}; give all workers the same files, or the new ones a new version number"
            )
            yield "warning", text
        topic = names.infer_topic(model, version)
        if topic not in topics:
            text = (
                f"topic {topic} of model '{model}' version {version} does not exist, although it is served: calls to it never run; "
                "restart a worker, which creates it again, and find out what deletes topics"
            )
            yield "problem", text
