"""The result store and the directory on Redis (6.2 or newer): one fenced stream per request, hints over publish/subscribe.

The top of each `scripts/*.lua` states what the script promises and what a stream holds.
Invariant: only those scripts write streams, so that a refused call leaves nothing half-done.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Final

import msgpack
from redis.exceptions import NoScriptError, RedisError

from protocol import codec, frames
from protocol.errors import CodecError, ConfigError, FleetError
from protocol.ports import Cancel, Claim, Claimed, ClaimState, FinishOutcome, Place, RequestState, Terminal, Wake
from protocol.runtime.outages import USUAL, Meanwhile, Server, Watch, system_error
from protocol.totals import Key, add, tally
from protocol.transport.redis.address import Address
from protocol.transport.redis.client import Client, Subscriptions
from protocol.transport.redis.connection import Argument, Reply, pack_commands
from protocol.transport.redis.directory import READS_PARTS, RedisDirectory
from protocol.transport.redis.redis_internals import pack_command
from protocol.transport.settings import TransportSettings

log = logging.getLogger(__name__)

TERMINAL: Final = b"18446744073709551615-18446744073709551615"
ANSWERS_IN_CALL: Final = 128
BYTES_IN_CALL: Final = 1024 * 1024
"""More answers than this are written by several calls: while a script runs, Redis serves no other client."""
VERSIONS_IN_CALL: Final = 64
"""Model versions whose totals are read by one call."""
FILL_AGE: Final = 1.0
HEALTH_TIMEOUT: Final = 1.0
_OUTCOMES: Final = tuple(FinishOutcome)
_CLAIM_STATES: Final = tuple(ClaimState)


class Script:
    """A Lua file and its hash."""

    def __init__(self, name: str) -> None:
        self.source = resources.files(__package__).joinpath("scripts", f"{name}.lua").read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


def milliseconds(seconds: float) -> int:
    """A duration as Redis takes it; at least 1, because 0 would delete the key."""
    return max(1, round(seconds * 1000))


class RedisStore(RedisDirectory):
    """`protocol.ports.Results` and `Directory` on one Redis primary; also carries Kafka's `RebalanceHints`.

    Args:
        settings: how to reach it.
        meanwhile: what the process does while it is away, for its log.
    """

    def __init__(self, settings: TransportSettings, meanwhile: Meanwhile = USUAL) -> None:
        names = settings.names
        self._address = Address.parse(settings.redis)
        self._connect_timeout = settings.connect_timeout
        server = Server("Redis", str(self._address), "--redis", ("protocol.transport.redis",))
        self._watch = Watch(server, meanwhile.redis, self._why_away, start=meanwhile.start)
        reach = (self._address, settings.connect_timeout, self._watch.suspect)
        super().__init__(names, Client(*reach), Subscriptions(*reach))
        self._prefix = names.result_key("")
        self._gateways = names.gateway_channel("")
        self._rebalance_channel = names.rebalance_channel
        self._result_ttl = milliseconds(settings.result_ttl)
        self._finish, self._claim, self._confirm, self._start = map(Script, ("finish", "claim", "confirm", "start"))
        self._release, self._totals = map(Script, ("release", "totals"))
        self._fill = 0.0
        self._fill_at = float("-inf")

    async def open(self) -> None:
        """See `Results.open`."""
        async with self._watch.starting(
            self._connect_timeout, lambda _: system_error(self._client.failure) or self._client.failure
        ):
            await self._client.open()
        await self._refuse_cluster()
        self._watch.open()
        scripts = (self._finish, self._claim, self._confirm, self._start, self._release, self._totals)
        await self._client.call_packed(
            pack_commands([("SCRIPT", "LOAD", script.source) for script in scripts]), len(scripts)
        )
        memory = await self._memory()
        if int(memory["maxmemory"]) and memory["maxmemory_policy"] != "noeviction":
            log.warning(
                "Redis at %s evicts keys (maxmemory-policy %s): a request may then be answered twice; set noeviction",
                self._address,
                memory["maxmemory_policy"],
            )

    async def close(self) -> None:
        """See `Results.close`."""
        self._watch.close()
        await self._listening.close()
        await self._client.close()

    async def now(self) -> float:
        """See `Results.now`."""
        seconds, micros = await self._client.call("TIME")
        return int(seconds) + int(micros) / 1e6

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Reply:
        """A script's reply; loads the script again if Redis has lost it (restart, SCRIPT FLUSH, failover)."""
        packed = pack_command(("EVALSHA", script.digest, len(keys), *keys, *arguments))
        (reply,) = await self._client.call_packed(packed, raw=True)
        if isinstance(reply, NoScriptError):
            load = pack_command(("SCRIPT", "LOAD", script.source))
            _, reply = await self._client.call_packed(load + packed, 2, raw=True)
        if isinstance(reply, RedisError):
            raise self._client.refusal(reply)
        return reply

    # --- results ---

    @property
    def immediate(self) -> None:
        """None: Redis is another process."""

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """See `Results.finish`; one script call, or several of at most `BYTES_IN_CALL`."""
        outcomes: list[FinishOutcome] = []
        for part in _portions(answers):
            keys = [self._prefix + answer.ref for answer in part]
            counted_keys, counts = self._counted(part)
            arguments: list[Argument] = [self._result_ttl, len(self._prefix), *counts]
            for answer in part:
                retriable = b"1" if answer.retriable else b"0"
                accepted = codec.micros(answer.accepted)
                kept = answer.claimed or not (answer.reply_to or answer.to_topic)
                ttl = self._result_ttl if kept else milliseconds(answer.ttl)
                arguments += (codec.payload_bytes(answer.payload), answer.reply_to, ttl, retriable, accepted)
            reply = await self._run(self._finish, keys + counted_keys, arguments)
            outcomes += [_OUTCOMES[code] for code in reply]
        return outcomes

    def _counted(self, part: Sequence[Terminal]) -> tuple[list[str], tuple[bytes, bytes]]:
        """The keys of the totals to which these answers add, and the script's arguments for them."""
        counts = next((answer.counts for answer in part if answer.counts is not None), None)
        if counts is None:
            return [], (b"", b"")
        counted = tally([answer.counts for answer in part])
        parts = b""
        if len(part) > 1:
            parts = frames.pack([counted.batch, counted.kinds, [kind + 1 for kind in counted.kind_of]])
        return self._keys_of(counts.key), (frames.pack(counted.total()), parts)

    def _keys_of(self, key: Key) -> list[str]:
        name = self._names.totals_key(*key)
        return [name, f"{name}:recent"]

    async def totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        """See `Results.totals`; one script call per `VERSIONS_IN_CALL`."""
        found: list[dict[str, int]] = []
        for start in range(0, len(versions), VERSIONS_IN_CALL):
            keys = [name for key in versions[start : start + VERSIONS_IN_CALL] for name in self._keys_of(key)]
            reply = await self._run(self._totals, keys, [])
            found += [_sum(*pair) for pair in zip(reply[::2], reply[1::2], strict=True)]
        return found

    async def claim(self, claim: Claim) -> Claimed:
        """See `Results.claim`."""
        arguments: list[Argument] = [
            claim.fingerprint,
            claim.reply_to,
            milliseconds(claim.lease),
            milliseconds(claim.ttl),
            claim.model,
            claim.version,
            codec.micros(claim.accepted),
            secrets.token_bytes(8),
            _text(claim.lost),
        ]
        code, *found = await self._run(self._claim, [self._prefix + claim.ref], arguments)
        state = _CLAIM_STATES[code]
        if state is ClaimState.ATTACHED:
            return Claimed(state, None, found[0] == b"1", _place(found[1]))
        return Claimed(state, found[0] if found else None)

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        """See `Results.confirm`."""
        await self._run(self._confirm, [self._prefix + ref], ["ok" if published else "no", _text(place) or "1"])

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        """See `Results.start`."""
        if not refs:
            return []
        attempts: list[int] = await self._run(
            self._start, [self._prefix + ref for ref in refs], [worker, milliseconds(ttl)]
        )
        return attempts

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        """See `Results.look`. One command each and no script, so that large payloads do not delay other clients."""
        if not refs:
            return []
        asked = pack_commands([("XINFO", "STREAM", self._prefix + ref) for ref in refs])
        return [self._state(reply) for reply in await self._client.call_packed(asked, len(refs), raw=True)]

    def _state(self, reply: Reply) -> RequestState | None:
        if isinstance(reply, RedisError):
            if "no such key" in str(reply):
                return None
            raise self._client.refusal(reply)
        stream = dict(zip(reply[::2], reply[1::2], strict=True))
        first, last, newest = stream[b"first-entry"], stream[b"last-entry"], stream[b"last-generated-id"]
        claim = dict(zip(first[1][::2], first[1][1::2], strict=True)) if first else {}
        payload = None
        if newest == TERMINAL:
            state, payload = "done", (last[1][1] if last and last[0] == TERMINAL else b"")
        else:
            state = "queued" if newest.startswith(b"0-") else "running"
        return RequestState(
            state,
            payload,
            claim.get(b"m", b"").decode(),
            claim.get(b"v", b"").decode(),
            int(claim.get(b"a", 0)) / 1e6,
        )

    async def trim(self, refs: Sequence[str]) -> None:
        """See `Results.trim`. Deletes the terminal's entry; the stream's last id, which is the fence, stays."""
        if refs:
            asked = pack_commands([("XDEL", self._prefix + ref, TERMINAL) for ref in refs])
            await self._client.call_packed(asked, len(refs))

    async def release(self, refs: Sequence[str]) -> None:
        """See `Results.release`."""
        if refs:
            await self._run(self._release, [self._prefix + ref for ref in refs], [])

    # --- hints ---

    async def listen(self, channel: str, on_wake: Callable[[list[Wake]], None]) -> None:
        """See `Results.listen`."""
        if channel.startswith(self._gateways):
            await self._listening.listen(channel + READS_PARTS, lambda message: None)
        await self._listening.listen(channel, lambda message: on_wake(_wakes(message)))

    async def cancel(self, channel: str, cancels: Sequence[Cancel]) -> None:
        """See `Results.cancel`."""
        if cancels:
            message = [[cancel.ref, codec.micros(cancel.until)] for cancel in cancels]
            await self._client.call("PUBLISH", channel, frames.pack(message))

    async def listen_cancels(self, channel: str, on_cancel: Callable[[list[Cancel]], None]) -> None:
        """See `Results.listen_cancels`."""
        await self._listening.listen(channel, lambda message: on_cancel(_cancels(message)))

    async def unlisten(self, channel: str) -> None:
        """See `Results.unlisten`."""
        self._listening.unlisten(channel)
        if channel.startswith(self._gateways):
            self._listening.unlisten(channel + READS_PARTS)

    async def publish_rebalance(self, group: str) -> None:
        """See `RebalanceHints.publish_rebalance`."""
        await self._client.call("PUBLISH", self._rebalance_channel, group)

    async def listen_rebalances(self, on_rebalance: Callable[[str], None]) -> None:
        """See `RebalanceHints.listen_rebalances`."""
        await self._listening.listen(self._rebalance_channel, lambda message: on_rebalance(message.decode()))

    # --- the server ---

    async def _refuse_cluster(self) -> None:
        """A Redis Cluster would accept single calls, and refuse the first batch whose answers are on several nodes.

        Raises:
            ConfigError: the server is a node of a cluster.
        """
        if (await self._info("cluster")).get("cluster_enabled") == "1":
            await self._client.close()
            raise ConfigError(
                f"Redis at {self._address} is a node of a Redis Cluster (cluster-enabled yes), which is not supported: the "
                "answers of a batch are written together, but would be on several nodes. Name a single Redis, or one with "
                "replicas behind Sentinels (redis+sentinel://)"
            )

    async def _memory(self) -> dict[str, str]:
        return await self._info("memory")

    async def _info(self, section: str) -> dict[str, str]:
        text: bytes = await self._client.call("INFO", section)
        return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)

    async def fill(self) -> float:
        """See `Results.fill`; measured at most once a second."""
        now = time.monotonic()
        if now - self._fill_at >= FILL_AGE:
            memory = await self._memory()
            limit = int(memory["maxmemory"])
            self._fill = min(1.0, int(memory["used_memory"]) / limit) if limit else 0.0
            self._fill_at = now
        return self._fill

    async def _why_away(self) -> str:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                await self._client.call("PING")
        except TimeoutError:
            return "it took too long"
        except FleetError as exc:
            return system_error(exc.message) or exc.message.removeprefix(f"Redis at {self._address} ")
        return ""

    async def healthy(self) -> bool:
        """See `Results.healthy`."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                await self._client.call("PING")
        except (TimeoutError, FleetError):
            return False
        return self._listening.healthy


def _portions(answers: Sequence[Terminal]) -> Iterator[Sequence[Terminal]]:
    """The answers of each script call, in order; usually all of them. One call counts for one model version."""
    start = total = 0
    key: Key | None = None
    for at, answer in enumerate(answers):
        size = len(codec.payload_bytes(answer.payload))
        mine = answer.counts.key if answer.counts is not None else key
        other = key is not None and mine != key
        if at > start and (total + size > BYTES_IN_CALL or at - start == ANSWERS_IN_CALL or other):
            yield answers[start:at]
            start, total = at, 0
        key = mine
        total += size
    if answers:
        yield answers[start:]


def _sum(kept: Sequence[bytes], recent: Sequence[bytes]) -> dict[str, int]:
    """The totals of a version: a hash as a flat list, and what is not in it yet. Whatever else is there counts as nothing."""
    total: dict[str, int] = {}
    try:
        for name, number in zip(kept[::2], kept[1::2], strict=True):
            total[name.decode()] = int(number)
        for packed in recent:
            add(total, {str(name): int(number) for name, number in frames.unpack(packed).items()})
    except (AttributeError, CodecError, TypeError, ValueError) as exc:
        log.warning("totals in Redis cannot be read: %s", exc)
    return total


def _text(place: Place | None) -> str:
    """A place as text in a stream; "" for None."""
    return f"{place[0]}/{place[1]}" if place is not None else ""


def _place(text: bytes) -> Place | None:
    partition, _, offset = text.partition(b"/")
    return (int(partition), int(offset)) if offset else None


def _wakes(message: bytes) -> list[Wake]:
    """The wake-ups of one script call: [ref, payload, ref, payload, …]."""
    flat: list[bytes] = msgpack.unpackb(message, raw=True)
    return [Wake(flat[i].decode(), flat[i + 1] or None) for i in range(0, len(flat), 2)]


def _cancels(message: bytes) -> list[Cancel]:
    """The cancellations of one message: [[ref, microseconds], …]. The subscription logs and drops any other message."""
    return [Cancel(str(ref), int(until) / 1e6) for ref, until in frames.unpack(message)]
