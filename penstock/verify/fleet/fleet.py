"""The fleet of a run: two gateways, two workers, and a third worker that joins and leaves."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from penstock.client import AsyncClient
from penstock.verify.fleet.kafka_proxy import KafkaProxy
from penstock.verify.fleet.processes import Member, ServerAddresses, free_port
from penstock.verify.fleet.proxy import Proxy
from penstock.verify.plan.plan import GATEWAYS, MODELS, WORKERS
from protocol.errors import FleetError, Unavailable

PARTITIONS: Final = 4
READY_WITHIN: Final = 120.0
ANSWER_WITHIN: Final = 5.0


class Fleet:
    """All processes of a run.

    Attributes:
        members: by name; the last worker is started by a fault only.
        urls: of the gateways.
    """

    def __init__(self, backing: ServerAddresses, repository: Path, folder: Path, token: str) -> None:
        self.members: dict[str, Member] = {}
        self.urls: list[str] = []
        self._backing = backing
        self._repository = repository
        self._folder = folder
        self._token = token
        self._secret = secrets.token_hex(16)

    async def start(self) -> None:
        """Start all and wait until every gateway knows the models.

        Raises:
            Unavailable: a process ended, or the fleet was not ready in time; the message has the end of the log.
        """
        for number in range(GATEWAYS):
            port = free_port()
            self.urls.append(f"http://127.0.0.1:{port}")
            ports = ("--http-port", str(port), "--grpc-port", "off")
            await self._add(f"gateway-{number}", "gateway", *ports, "--signing-secret", self._secret)
        for number in range(WORKERS + 1):
            name = f"worker-{number}"
            repository = ("--model-repository", str(self._repository), "--partitions", str(PARTITIONS))
            await self._add(name, "worker", "--worker", name, *repository)
        for member in self.always():
            member.start()
        await self._ready()

    def always(self) -> list[Member]:
        """The members that run all the time, faults aside."""
        return [member for name, member in self.members.items() if name != f"worker-{WORKERS}"]

    def workers(self) -> list[Member]:
        """The running workers."""
        return [member for name, member in self.members.items() if name.startswith("worker") and member.running]

    async def stop(self, seconds: float) -> None:
        """SIGTERM to all; kill those that do not end within `seconds`."""
        for member in self.members.values():
            member.terminate()
        for member in self.members.values():
            await asyncio.to_thread(member.wait, seconds)
            for proxy in (member.proxy, member.kafka):
                if proxy is not None:
                    await proxy.close()

    async def _add(self, name: str, role: str, *flags: str) -> None:
        target, brokers = self._backing.target(), self._backing.brokers()
        proxy, kafka = Proxy(*target) if target else None, KafkaProxy(brokers) if brokers else None
        redis, bootstrap = self._backing.redis, self._backing.kafka
        if proxy is not None:
            await proxy.open()
            redis = self._backing.through(proxy.port)
        if kafka is not None:
            await kafka.open()
            bootstrap = kafka.bootstrap
        servers = ("--kafka", bootstrap, "--redis", redis, "--metrics-port", "0")
        member = Member(name, (role, *self._backing.arguments, *servers, *flags), self._folder, self._token)
        member.proxy, member.kafka = proxy, kafka
        self.members[name] = member

    async def _ready(self) -> None:
        end = asyncio.get_running_loop().time() + READY_WITHIN
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(AsyncClient(url, retries=0)) for url in self.urls]
            while not await _all_ready(clients):
                for member in self.always():
                    if not member.running:
                        raise Unavailable(f"{member.name} ended; the end of its log:\n{member.tail()}")
                if asyncio.get_running_loop().time() > end:
                    logs = "\n".join(f"--- {member.name}\n{member.tail(5)}" for member in self.always())
                    raise Unavailable(f"the fleet was not ready within {READY_WITHIN:.0f} s\n{logs}")
                await asyncio.sleep(0.2)


async def _all_ready(clients: Sequence[AsyncClient]) -> bool:
    for client in clients:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                index = await client.models()
        except (FleetError, TimeoutError):
            return False
        ready = {entry["name"] for entry in index if entry.get("state") == "READY"} if isinstance(index, list) else ()
        if not set(MODELS) <= set(ready):
            return False
    return True
