"""A Redis Sentinel on this machine: the same program as Redis, which watches a primary and promotes its replica.

Invariant: a Sentinel rewrites its file as it learns, so we write it once, and a restart keeps its knowledge.
"""

from __future__ import annotations

from pathlib import Path

from infra.local import probes
from infra.local.process import HOST, OnePortServer, free_port
from infra.local.redis import RedisProgram, RedisServer, find_redis

MASTER = "penstock"
"""The name under which the Sentinels know the primary."""


class SentinelServer(OnePortServer):
    """One Sentinel.

    Args:
        data: folder of its file and its log.
        watched: the primary at the start.
        quorum: how many must consider it down.
        down_after: seconds of silence after which it is considered down.
    """

    name = "Sentinel"

    def __init__(
        self,
        data: Path,
        watched: RedisServer,
        *,
        quorum: int = 2,
        down_after: float = 1.0,
        program: RedisProgram | None = None,
    ) -> None:
        super().__init__(data.absolute())
        self.port = free_port(HOST)
        self._watched = watched
        self._quorum = quorum
        self._down_after = down_after
        self._program = program

    def command(self) -> list[str]:
        """Writes sentinel.conf, unless it exists."""
        file = self.data / "sentinel.conf"
        if not file.exists():
            lines = [
                f"port {self.port}",
                f"bind {HOST}",
                f'dir "{self.data}"',
                f"sentinel monitor {MASTER} {HOST} {self._watched.port} {self._quorum}",
                f"sentinel down-after-milliseconds {MASTER} {round(self._down_after * 1000)}",
                # Within it no second failover is tried; the default of 3 min is too long for a run.
                f"sentinel failover-timeout {MASTER} 6000",
                f"sentinel parallel-syncs {MASTER} 1",
            ]
            file.write_text("\n".join(lines) + "\n")
        self._program = self._program or find_redis()
        return [str(self._program.program), str(file), "--sentinel"]

    def answers(self) -> bool:
        """Whether it takes commands."""
        return probes.redis_answers(HOST, self.port)

    def primary(self) -> int:
        """The port of the primary that this Sentinel knows.

        Raises:
            OSError: it does not answer.
        """
        return int(probes.redis_words(HOST, self.port, "SENTINEL", "get-master-addr-by-name", MASTER)[1])

    def sees_all(self, others: int = 2) -> bool:
        """Whether it knows that many other Sentinels, and a replica that is up and linked to the primary.

        Raises:
            OSError: it does not answer.
        """
        peers = probes.redis_words(HOST, self.port, "SENTINEL", "sentinels", MASTER)
        replicas = probes.redis_words(HOST, self.port, "SENTINEL", "replicas", MASTER)
        known = dict(zip(replicas[::2], replicas[1::2], strict=False))
        return (
            peers.count("runid") == others and known.get("flags") == "slave" and known.get("master-link-status") == "ok"
        )
