"""Which server is the primary, by Redis' Sentinels.

Invariant: all Sentinels are asked, and the newest of their configurations counts, as among themselves. redis-py's `Sentinel` takes
the first answer: a Sentinel that was partitioned or hung would send its callers back to the old primary.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from protocol.errors import ConfigError, quoted
from protocol.transport.redis.redis_internals import MasterNotFoundError

SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
PORT: Final = 26379
ANSWER_WITHIN: Final = 1.0
"""Seconds to wait for a Sentinel's answer."""
FORM: Final = "redis+sentinel://HOST:26379,HOST:26379,HOST:26379/NAME/0"

_URL: Final = re.compile(r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_LOGIN: Final = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclasses.dataclass(frozen=True, slots=True)
class Sentinels:
    """The Sentinels of one primary; neither `str()` nor `repr()` has a password.

    Attributes:
        name: the primary's, in their configuration.
        hosts: their hosts and ports.
        login: user name and password for the Sentinels themselves, if they require them.
    """

    name: str
    hosts: tuple[tuple[str, int], ...]
    login: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)

    def sentinel_client(self, tls: Mapping[str, Any]) -> SentinelClient:
        """A client of them; `tls` are redis-py's TLS arguments, the same as for the primary."""
        options: dict[str, Any] = {
            **self.login,
            **tls,
            "protocol": 2,
            "socket_timeout": ANSWER_WITHIN,
            "socket_connect_timeout": ANSWER_WITHIN,
            "retry": Retry(NoBackoff(), 0),  # the other Sentinels are the retry
        }
        return SentinelClient(self.name, [Redis(host=host, port=port, **options) for host, port in self.hosts])

    def __str__(self) -> str:
        return f"{','.join(f'{host}:{port}' for host, port in self.hosts)}/{self.name}"


class SentinelClient:
    """Asks all Sentinels; for one event loop."""

    def __init__(self, name: str, clients: Sequence[Any]) -> None:
        self._name = name
        self._clients = clients

    async def primary(self) -> tuple[str, int]:
        """The primary's host and port.

        Raises:
            RedisError: no Sentinel answers or knows the name, one refuses the request, or they consider the primary down.
        """
        answers = await asyncio.gather(*(client.sentinel_masters() for client in self._clients), return_exceptions=True)
        newest = _newest([each[self._name] for each in answers if isinstance(each, dict) and self._name in each])
        if newest is not None:
            return newest
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        raise MasterNotFoundError(f"no Sentinel knows a live primary {quoted(self._name)}")

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.gather(*(client.aclose() for client in self._clients), return_exceptions=True)


def _newest(states: Sequence[Mapping[str, Any]]) -> tuple[str, int] | None:
    """The primary of the newest configuration; None if most Sentinels that have it consider the primary down."""
    epoch = max((state["config-epoch"] for state in states), default=0)
    known = [state for state in states if state["config-epoch"] == epoch]
    if not known or sum(state["is_sdown"] for state in known) * 2 > len(known):
        return None
    return str(known[0]["ip"]), int(known[0]["port"])


def parse_sentinel_url(url: str) -> tuple[str, Sentinels | None]:
    """Splits a URL of the form `FORM` into a URL for redis-py, with everything but the primary's place, and the Sentinels.

    Any other URL is returned unchanged. The login before the `@` is for the primary; `sentinel_username` and `sentinel_password`
    in the query are for the Sentinels. `rediss+sentinel` is TLS to both.

    Raises:
        ConfigError: it has Sentinels, and is incomplete; the message leaves out the password.
    """
    found = _URL.match(url)
    if found is None or found["scheme"].lower() not in SCHEMES:
        return url, None
    login, at, places = found["authority"].rpartition("@")
    # Newer Pythons refuse several hosts if one is in brackets, so the hosts are taken out first.
    parts = urlsplit(f"{found['scheme']}://{login}{at}primary{found['rest']}")
    name, _, database = parts.path.strip("/").partition("/")
    hosts = tuple(_host_and_port(place) for place in places.split(",") if place)
    if not hosts or not name:
        raise ConfigError(f"a Redis URL with Sentinels names them and the primary, as {FORM}")
    query = parse_qsl(parts.query, keep_blank_values=True)
    own = {_LOGIN[key]: value for key, value in query if key in _LOGIN}
    rest = urlencode([(key, value) for key, value in query if key not in _LOGIN])
    plain = urlunsplit((parts.scheme.removesuffix("+sentinel"), parts.netloc, f"/{database}", rest, ""))
    return plain, Sentinels(name, hosts, own)


def _host_and_port(place: str) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(PORT)
    if not host or not port.isdecimal():
        raise ConfigError(f"a Sentinel is HOST:PORT, and {quoted(place)} is not; the Redis URL looks like {FORM}")
    return host.strip("[]"), int(port)
