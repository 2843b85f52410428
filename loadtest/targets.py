"""Turns a URL into a target for load: the model's inputs, its expected answers, and the client."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from loadtest import direct, payloads
from loadtest.connections import Address, HttpTarget
from loadtest.run import CheckedTarget
from protocol import heartbeat_codec
from protocol.errors import FleetError, InvalidArgument, NotFound, Unavailable
from protocol.messages import Announcement, ModelState
from protocol.naming import Names
from protocol.ports import Bus
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings


@dataclasses.dataclass(frozen=True, slots=True)
class TargetChoice:
    """The user's choice on the command line.

    Attributes:
        url: `http://host:port` or `kafka://host:port[,host:port]`.
        model: the model's name.
        version: its version; "" for the newest one.
        redis: URL of the results, for kafka://.
        prefix: of the fleet's topics and keys, for kafka://.
        repository: model repository to compute right answers from; None to check no values.
        integers_below: bound of random integers.
        bodies: number of different bodies.
        headers: "Name: value" each.
    """

    url: str
    model: str
    version: str = ""
    redis: str = "redis://127.0.0.1:6379"
    prefix: str = "penstock"
    repository: Path | None = None
    integers_below: int = 100
    bodies: int = 512
    headers: tuple[str, ...] = ()

    def open(self) -> CheckedTarget:
        """The target with its pool of requests; not yet connected.

        Raises:
            FleetError: the URL is neither of these, or the server does not know the model.
        """
        scheme, _, place = self.url.partition("://")
        if scheme == "kafka":
            return self._open_fleet(place)
        address = Address.parse(self.url, self.model, self.version)
        headers = dict(map(_header, self.headers))
        specs = payloads.specs_of(get_json(address, address.model_path, headers), self.integers_below)
        return HttpTarget(address, self.pool(specs), headers=headers)

    def pool(self, specs: Sequence[payloads.InputSpec]) -> payloads.Pool:
        """Different bodies, with their answers if a repository was named."""
        reference = direct.load(self.repository / self.model) if self.repository else None
        return payloads.build(specs, self.bodies, reference=reference)

    def _open_fleet(self, kafka: str) -> CheckedTarget:
        from loadtest.fleet_target import FleetTarget

        settings = TransportSettings(kafka=kafka, redis=self.redis, prefix=self.prefix)
        announcement = asyncio.run(_announced(settings, self.model, self.version))
        pool = self.pool(payloads.specs_of_config(announcement.config, self.integers_below))
        transport = open_transport(settings)
        return FleetTarget(transport, settings.names, self.model, announcement.version, pool)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(ord(char) < 32 for char in text):
        raise InvalidArgument(f"header {text!r} is not 'Name: value'")
    return name.strip(), value.strip()


async def _announced(settings: TransportSettings, model: str, version: str) -> Announcement:
    bus = open_transport(settings).bus
    await bus.open()
    try:
        return await newest_ready(bus, settings.names, model, version)
    finally:
        await bus.close()


async def newest_ready(bus: Bus, names: Names, model: str, version: str = "") -> Announcement:
    """The catalogue's entry of a model version, or of the newest ready one; the bus is open.

    Raises:
        NotFound: the catalogue does not know it.
        Unavailable: the broker does not answer.
    """
    known: dict[str, Announcement] = {}
    async for records in bus.follow(names.catalogue_topic):
        if not records:
            break
        for entry in (
            heartbeat_codec.decode_announcement(record.value)
            for record in records
            if record.value and not (record.key or b"").startswith(b"/")
        ):
            if entry.model == model and version in ("", entry.version):
                known[entry.version] = entry
    ready = [entry for entry in known.values() if entry.state is ModelState.READY]
    if not ready:
        raise NotFound(f"the catalogue knows no ready version {version or 'at all'} of model '{model}'")
    return max(ready, key=lambda entry: int(entry.version))


def get_json(address: Address, path: str, headers: Mapping[str, str] | None = None, timeout: float = 10.0) -> Any:
    """The JSON document at a path of the server.

    Raises:
        Unavailable: no server answers there.
        FleetError: the status is not 200; holds the server's message.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise Unavailable(f"http://{address.host}:{address.port}{path}: {exc}") from exc
    finally:
        connection.close()
    if response.status != 200:
        raise FleetError(f"GET {path} was answered {response.status}: {body[:300].decode(errors='replace')}")
    return orjson.loads(body)
