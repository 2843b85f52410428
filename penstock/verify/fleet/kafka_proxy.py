"""Proxies between one process of the fleet and the brokers of a cluster; like Redis' proxy, they can be slow or cut.

Every broker has a port here, and replies name these ports instead of the brokers', so clients stay behind the proxies wherever
partitions and coordinators move. A new broker gets its port before its name is passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from penstock.verify.fleet.kafka_frames import Address, replaced, to_be_read
from penstock.verify.fleet.proxy import CHUNK, Ends, Proxy

_HERE: Final = "127.0.0.1"


class KafkaProxy:
    """The proxies of all brokers, for one process.

    Attributes:
        delay: seconds by which every piece is delayed, each way.
        cut: new connections are closed at once.
    """

    def __init__(self, brokers: Sequence[Address]) -> None:
        self._delay = 0.0
        self._cut = False
        self._first = tuple(brokers)
        self._proxies: dict[Address, _BrokerProxy] = {}
        self._opening = asyncio.Lock()

    @property
    def delay(self) -> float:
        """Seconds by which every piece is delayed, each way."""
        return self._delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._delay = seconds
        for proxy in self._proxies.values():
            proxy.delay = seconds

    @property
    def cut(self) -> bool:
        """Whether new connections are closed at once."""
        return self._cut

    @cut.setter
    def cut(self, cut: bool) -> None:
        self._cut = cut
        for proxy in self._proxies.values():
            proxy.cut = cut

    async def open(self) -> None:
        """Listen for the bootstrap brokers."""
        await self.know(self._first)

    @property
    def bootstrap(self) -> str:
        """The proxies' addresses of the bootstrap brokers."""
        return ",".join(f"{_HERE}:{self._proxies[address].port}" for address in self._first)

    async def know(self, brokers: Sequence[Address]) -> None:
        """Listen for these brokers too."""
        async with self._opening:
            for address in brokers:
                if address not in self._proxies:
                    proxy = _BrokerProxy(self, address)
                    proxy.delay, proxy.cut = self._delay, self._cut
                    await proxy.open()
                    self._proxies[address] = proxy

    def stand_in(self, broker: Address) -> Address:
        """The address that clients get instead of the broker's."""
        return _HERE, self._proxies[broker].port

    def drop(self) -> None:
        """Abort all connections."""
        for proxy in self._proxies.values():
            proxy.drop()

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        for proxy in self._proxies.values():
            await proxy.close()


class _BrokerProxy(Proxy):
    """The proxy of one broker: passes frames on, and rewrites those that name brokers."""

    def __init__(self, all_brokers: KafkaProxy, broker: Address) -> None:
        super().__init__(*broker)
        self._all = all_brokers

    async def _both_ways(self, near: Ends, far: Ends) -> None:
        asked: dict[int, tuple[int, int]] = {}
        await asyncio.gather(
            self._until_it_ends(self._requests(near[0], far[1], asked), far[1]),
            self._until_it_ends(self._replies(far[0], near[1], asked), near[1]),
        )

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, tuple[int, int]]
    ) -> None:
        while True:
            size = await reader.readexactly(4)
            length = int.from_bytes(size, "big")
            head = await reader.readexactly(min(8, length))
            if (found := to_be_read(head)) is not None:
                asked[found[0]] = found[1:]
            await self._write(writer, size + head)
            await self._pass(reader, writer, length - len(head))

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, tuple[int, int]]
    ) -> None:
        while True:
            size = await reader.readexactly(4)
            length = int.from_bytes(size, "big")
            head = await reader.readexactly(min(4, length))
            names = asked.pop(int.from_bytes(head, "big", signed=True), None)
            if names is None:
                await self._write(writer, size + head)
                await self._pass(reader, writer, length - len(head))
            else:
                body = await self._with_our_ports(*names, await reader.readexactly(length - 4))
                await self._write(writer, (len(body) + 4).to_bytes(4, "big") + head + body)

    async def _with_our_ports(self, key: int, version: int, body: bytes) -> bytes:
        named: list[Address] = []

        def note(broker: Address) -> Address:
            named.append(broker)
            return broker

        replaced(key, version, body, note)
        await self._all.know(named)
        return replaced(key, version, body, self._all.stand_in)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
        while length > 0:
            data = await reader.readexactly(min(length, CHUNK))
            length -= len(data)
            await self._write(writer, data)
