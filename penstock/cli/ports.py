"""The ports of a server, checked before anything that takes a while: loading models, or waiting for a broker."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

from penstock.cli.settings import flag_of
from protocol.errors import ConfigError

_HOSTS: Final = {"http_port": "host", "grpc_port": "host", "metrics_port": "metrics_host"}
"""The flags of ports, and of their hosts."""


def require_free(flags: Mapping[str, Any]) -> None:
    """Check that a server can listen at every address that its flags name.

    Raises:
        ConfigError: a port is given twice or taken, or an address cannot be used.
    """
    from gateway.rest.listening import bind

    ports = {name: flags[name] for name in _HOSTS if flags.get(name) is not None}
    for first, second in itertools.combinations(ports, 2):
        if ports[first] and ports[first] == ports[second]:
            raise ConfigError(
                f"{flag_of(first)} and {flag_of(second)} are both {ports[first]}; choose another for one of them"
            )
    for name, port in ports.items():
        bind(flags[_HOSTS[name]], port, option=flag_of(name), host_option=flag_of(_HOSTS[name])).close()
