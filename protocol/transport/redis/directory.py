"""The directory on Redis: one hash per part of a heartbeat (`protocol.heartbeat_parts`), and whole answers for those who ask.

Processes of wire version 1 write and read whole heartbeats in a hash of their own (`Names.workers_key`). Their workers are found in
that hash. Their gateways are told from ours by a channel that only ours listen to. While there is a process of either kind, our
workers write that hash, too.

Invariants: a write of which it is not known whether it happened is followed by a write of all parts; readers read a part only when
its revision in the pulse has changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from protocol.errors import CodecError, Unavailable
from protocol.heartbeat_codec import decode_heartbeat, encode_heartbeat, for_version_1
from protocol.heartbeat_parts import BeatReader, BeatWriter, decode_pulse
from protocol.messages import Heartbeat, Pulse, pulse_of
from protocol.naming import Names
from protocol.transport.redis.client import Client, Subscriptions
from protocol.transport.redis.connection import Argument, Reply, pack_commands

ANSWER_TTL: Final = 10.0
"""Seconds for which an answer to an ask is kept."""
LOOK_FOR_OLD: Final = 5.0
"""Seconds between two looks for processes of wire version 1."""
STALE: Final = 3.0
"""Seconds after which a pulse gives way to a heartbeat of version 1: the worker was replaced by one of that version."""
MANY_LOADS: Final = 8
"""Workers whose loads have changed, from which the next reading takes those of all workers with the pulses."""
READS_PARTS: Final = ":2"
"""End of the second channel of a gateway, to which gateways of wire version 1 do not listen."""

_MOST_WARNED: Final = 1024

log = logging.getLogger(__name__)


class RedisDirectory:
    """`protocol.ports.Directory` on one Redis primary.

    Args:
        names: of the keys and channels.
        client: for commands.
        listening: for asks.
    """

    def __init__(self, names: Names, client: Client, listening: Subscriptions) -> None:
        self._names = names
        self._client = client
        self._listening = listening
        self._keys = (names.pulses_key, names.descriptions_key, names.loads_key)
        self._writers: dict[str, BeatWriter] = {}
        self._written: set[str] = set()
        self._reader = BeatReader()
        commands = [("TIME",), ("HGETALL", self._keys[0]), ("HKEYS", names.workers_key)]
        self._read_pulses_packed = pack_commands(commands)
        self._read_all_packed = pack_commands([*commands, ("HGETALL", self._keys[2])])
        self._most_change = False
        self._old_workers: set[str] = set()
        self._others_are_old = True
        self._looked_at = float("-inf")
        self._warned: dict[str, str] = {}

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `Directory.beat`."""
        await self._write(heartbeat, [])

    async def answer(self, heartbeat: Heartbeat) -> None:
        """See `Directory.answer`."""
        key, ttl = self._names.answer_key(heartbeat.worker), round(ANSWER_TTL * 1000)
        self._writer(heartbeat.worker).forget()
        await self._write(heartbeat, [("SET", key, encode_heartbeat(heartbeat), "PX", ttl)])

    async def forget(self, worker: str) -> None:
        """See `Directory.forget`."""
        self._writers.pop(worker, None)
        self._written.discard(worker)
        hashes = (*self._keys, self._names.workers_key)
        commands: list[Sequence[Argument]] = [("HDEL", key, worker) for key in hashes]
        await self._call([*commands, ("DEL", self._names.answer_key(worker))])

    async def hint_waiting(self, topic: str) -> None:
        """See `Directory.hint_waiting`."""
        await self._client.call("PUBLISH", self._names.waiting_channel, topic)

    async def listen_waiting(self, on_hint: Callable[[str], None]) -> None:
        """See `Directory.listen_waiting`."""
        await self._listening.listen(self._names.waiting_channel, lambda message: on_hint(message.decode()))

    async def ask(self, ask: str) -> None:
        """See `Directory.ask`."""
        await self._client.call("PUBLISH", self._names.asks_channel, ask)

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """See `Directory.listen_asks`."""
        await self._listening.listen(self._names.asks_channel, lambda message: on_ask(message.decode()))

    # --- reading -----------------------------------------------------------------------------------------------------

    async def workers(self) -> list[Heartbeat]:
        """See `Directory.workers`. A heartbeat that cannot be read is skipped, and logged once."""
        old, loads = await self._everybody(with_loads=self._most_change)
        await self._read_parts(loads)
        found = self._reader.heartbeats()
        if not old:
            return found
        beats = {beat.worker: beat for beat in found}
        for worker, beat in old.items():
            if worker not in beats or beats[worker].at < beat.at:
                beats[worker] = beat
        return list(beats.values())

    async def pulses(self, workers: Collection[str] | None = None) -> list[Pulse]:
        """See `Directory.pulses`."""
        if workers is None:
            old, _ = await self._everybody()
            pulses = {pulse.worker: pulse for pulse in self._reader.pulses()}
        else:
            names = list(workers)
            commands: list[Sequence[Argument]] = [("HMGET", self._keys[0], *names)] if names else []
            of_old = [worker for worker in names if worker in self._old_workers]
            replies = await self._call(commands) if commands else []
            pulses = self._pulses(zip(names, replies[0], strict=True)) if replies else {}
            old = await self._old_beats(of_old)
        found = {**{worker: pulse_of(beat) for worker, beat in old.items()}}
        for worker, pulse in pulses.items():
            if worker not in found or found[worker].at <= pulse.at:
                found[worker] = pulse
        return list(found.values())

    async def answers(self, workers: Collection[str]) -> list[Heartbeat]:
        """See `Directory.answers`."""
        names = list(workers)
        if not names:
            return []
        replies = await self._client.call("MGET", *map(self._names.answer_key, names))
        found = self._beats(zip(names, replies, strict=True))
        missing = [worker for worker in names if worker not in found and worker in self._old_workers]
        return [*found.values(), *(await self._old_beats(missing)).values()]

    async def _everybody(self, *, with_loads: bool = False) -> tuple[dict[str, Heartbeat], dict[bytes, bytes | None]]:
        """Read all pulses; returns the heartbeats of workers that have none, or a stale one, and all loads if they are wanted."""
        packed = self._read_all_packed if with_loads else self._read_pulses_packed
        time, flat, old, *more = await self._client.call_packed(packed, 3 + with_loads)
        for worker, problem in self._reader.read(flat[::2], flat[1::2]).items():
            self._complain(worker, problem)
        loads = dict(zip(more[0][::2], more[0][1::2], strict=True)) if more else {}
        if not old:
            self._old_workers = set()
            return {}, loads
        now = int(time[0]) + int(time[1]) / 1e6
        pulses = {pulse.worker: pulse.at for pulse in self._reader.pulses()}
        names = [worker for worker in map(_text, old) if pulses.get(worker, now - STALE) <= now - STALE]
        self._old_workers = {worker for worker in names if worker not in pulses}
        return await self._old_beats(names), loads

    async def _read_parts(self, loads: dict[bytes, bytes | None]) -> None:
        """Read the parts that have changed. Where most loads do, they came with the pulses: that saves a round trip."""
        reader = self._reader
        described, loaded = reader.wanted()
        self._most_change = len(loaded) > MANY_LOADS
        missing = [name for name in loaded if name not in loads]
        commands: list[Sequence[Argument]] = [
            ("HMGET", key, *names) for key, names in ((self._keys[1], described), (self._keys[2], missing)) if names
        ]
        replies = await self._call(commands) if commands else []
        if described:
            for name, value in zip(described, replies[0], strict=True):
                self._complain(_text(name), reader.described(_text(name), value))
        if missing:
            loads.update(zip(missing, replies[-1], strict=True))
        for worker, problem in reader.loaded(loads).items():
            self._complain(worker, problem)

    def _pulses(self, pairs: Iterable[tuple[str, bytes | None]]) -> dict[str, Pulse]:
        found = {}
        for worker, value in pairs:
            if value is not None:
                try:
                    found[worker] = decode_pulse(worker, value)
                except CodecError as exc:
                    self._complain(worker, exc.message)
        return found

    async def _old_beats(self, workers: Sequence[str]) -> dict[str, Heartbeat]:
        if not workers:
            return {}
        values = await self._client.call("HMGET", self._names.workers_key, *workers)
        return self._beats(zip(workers, values, strict=True))

    def _beats(self, pairs: Iterable[tuple[str, bytes | None]]) -> dict[str, Heartbeat]:
        found = {}
        for worker, value in pairs:
            if value is not None:
                try:
                    found[worker] = decode_heartbeat(value)
                except CodecError as exc:
                    self._complain(worker, exc.message)
        return found

    def _complain(self, worker: str, problem: str) -> None:
        if problem and self._warned.get(worker) != problem:
            if len(self._warned) >= _MOST_WARNED:
                self._warned.clear()
            self._warned[worker] = problem
            log.warning("the heartbeat of worker %s: %s", worker, problem)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _writer(self, worker: str) -> BeatWriter:
        return self._writers.setdefault(worker, BeatWriter())

    async def _write(self, heartbeat: Heartbeat, more: Sequence[Sequence[Argument]]) -> None:
        worker, writer = heartbeat.worker, self._writer(heartbeat.worker)
        with_old = await self._has_old(worker)
        if with_old:
            more = [*more, ("HSET", self._names.workers_key, worker, encode_heartbeat(for_version_1(heartbeat)))]
        try:
            added = await self._write_parts(heartbeat, writer, more)
            if added and worker in self._written:  # the store has lost it, and so everything
                writer.forget()
                await self._write_parts(heartbeat, writer, [])
        except BaseException:
            writer.forget()
            raise
        self._written.add(worker)

    async def _write_parts(self, heartbeat: Heartbeat, writer: BeatWriter, more: Sequence[Sequence[Argument]]) -> bool:
        """Write the parts that have changed; returns whether there was no pulse before."""
        parts = writer.parts(heartbeat)
        values = (parts.pulse, parts.description, parts.loads)
        commands: list[Sequence[Argument]] = [
            ("HSET", key, heartbeat.worker, value)
            for key, value in reversed(list(zip(self._keys, values, strict=True)))
            if value is not None
        ]
        replies = await self._call([*commands, *more])
        return bool(replies[len(commands) - 1])

    async def _has_old(self, worker: str) -> bool:
        """Whether there is a process of wire version 1; looked up now and then. If that is refused, there may be one."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < LOOK_FOR_OLD:
            return self._others_are_old
        names = self._names
        head = names.gateway_channel("")
        commands = [("HKEYS", self._keys[0]), ("HKEYS", names.workers_key), ("PUBSUB", "CHANNELS", f"{head}*")]
        try:
            pulses, beats, channels = await self._call(commands)
        except Unavailable as exc:
            self._complain(worker, f"whether older processes read it is not known: {exc.message}")
            self._others_are_old, self._looked_at = True, now
            return True
        listening = set(map(_text, channels))
        gateways = any(not name.endswith(READS_PARTS) and name + READS_PARTS not in listening for name in listening)
        workers = bool({*beats} - {*pulses, worker.encode()})
        if self._others_are_old and not (gateways or workers):
            await self._client.call("HDEL", names.workers_key, worker)
        self._others_are_old, self._looked_at = gateways or workers, now
        return self._others_are_old

    async def _call(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        return await self._client.call_packed(pack_commands(commands), len(commands))


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
