"""A Redis URL: where the server is and how to connect; Sentinels may name the primary."""

from __future__ import annotations

import dataclasses
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import Connection as TcpConnection
from redis.asyncio import SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError

from protocol.errors import ConfigError
from protocol.transport.redis.redis_internals import AbstractConnection, check_certificates, parse_url
from protocol.transport.redis.sentinel import FORM, SentinelClient, Sentinels, parse_sentinel_url

_OURS: Final[dict[str, Any]] = {
    "protocol": 2,
    "socket_timeout": None,  # one timer for all requests instead: `Connection._check`
    "socket_read_size": 65536,
}
_OPTIONS: Final = frozenset(
    {
        "connection_class", "username", "password", "host", "port", "db", "path", "client_name", "socket_keepalive",
        "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
        "ssl_check_hostname", "ssl_min_version", "ssl_ciphers",
    }
)  # fmt: skip
"""Options that a URL may have; others would change the form or the number of replies."""


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where and as which user to connect; neither `str()` nor `repr()` has the password.

    Attributes:
        kind: redis-py's connection class.
        options: its arguments.
        sentinels: which name the primary; None if `options` have its host.
    """

    kind: type[AbstractConnection] = TcpConnection
    options: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    sentinels: Sentinels | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """`redis://`, `rediss://` or `unix://`, as redis-py parses them; TLS is set by `ssl_ca_certs` and so on in the query.
        `redis+sentinel://` and `rediss+sentinel://` as `parse_sentinel_url` says.

        Raises:
            ConfigError: the URL is invalid; the message leaves out the password.
        """
        try:
            url, sentinels = parse_sentinel_url(url)
            options: dict[str, Any] = dict(parse_url(url))
            path = urlsplit(url).path.strip("/")
        except ValueError:
            raise ConfigError(
                "that is not a Redis URL, which looks like redis://HOST:6379/0, rediss://HOST:6379/0, unix:///PATH?db=0 or, with "
                f"Sentinels, {FORM}"
            ) from None
        if strange := options.keys() - _OPTIONS:
            raise ConfigError(f"the Redis URL has unsupported options: {', '.join(sorted(strange))}")
        if path and "path" not in options and "db" not in options:
            raise ConfigError("the Redis URL needs a database number after the host, as redis://HOST:6379/0")
        address = cls(options.pop("connection_class", TcpConnection), options, sentinels)
        try:
            check_certificates(address.connection(1.0))
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"the certificates that the Redis URL names cannot be read: {exc}") from None
        except (TypeError, ValueError, RedisError) as exc:
            raise ConfigError(f"the Redis URL's options contradict each other: {exc}") from None
        return address

    def connection(self, timeout: float, primary: tuple[str, int] | None = None) -> AbstractConnection:
        """A connection of redis-py's, not yet open; to this primary if Sentinels have named it."""
        place = {} if primary is None else {"host": primary[0], "port": primary[1]}
        return self.kind(**self.options | place | _OURS, socket_connect_timeout=timeout)

    def sentinel_client(self) -> SentinelClient | None:
        """A client of the Sentinels, not yet connected; None without Sentinels."""
        return self.sentinels.sentinel_client(self.tls) if self.sentinels is not None else None

    @property
    def tls(self) -> dict[str, Any]:
        """Redis-py's arguments about TLS, the same for the server and its Sentinels."""
        named = {name: value for name, value in self.options.items() if name.startswith("ssl_")}
        return {"ssl": issubclass(self.kind, SSLConnection), **named}

    def __str__(self) -> str:
        if issubclass(self.kind, UnixDomainSocketConnection):
            return f"unix://{self.options.get('path', '')}"
        scheme = "rediss" if issubclass(self.kind, SSLConnection) else "redis"
        where = {"host": "localhost", "port": 6379, "db": 0} | self.options
        if self.sentinels is not None:
            return f"{scheme}+sentinel://{self.sentinels}/{where['db']}"
        return f"{scheme}://{where['host']}:{where['port']}/{where['db']}"
