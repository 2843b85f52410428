"""The line that `penstock serve` prints for each model: a working shell command that calls it. Pure."""

from __future__ import annotations

import dataclasses
import math
import shlex
from typing import Any, Final
from urllib.parse import quote

import orjson

from protocol.model_config import ModelConfig, TensorSpec
from protocol.urls import callable_host, is_loopback, server_url

_VALUES: Final = {"BYTES": "text", "BOOL": True}
_NOT_IN_JSON: Final = frozenset({"FP16", "BF16"})
"""Datatypes that the V2 protocol sends only as bytes, which a terminal cannot show."""
_LONGEST: Final = 600
"""Longest body that is still practical to paste, in characters."""


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """The address of a gateway.

    Attributes:
        host, port: where it listens.
        certificate: the PEM file of its TLS certificate; "" for plain HTTP.
        keyed: whether it requires an API key. The key is never printed: the line takes it from the environment.
    """

    host: str
    port: int
    certificate: str = ""
    keyed: bool = False

    @property
    def url(self) -> str:
        """The URL for callers on this machine."""
        return server_url("https" if self.certificate else "http", self.host, self.port)


def example(server: Server, config: ModelConfig) -> str:
    """A command line that calls the model with made-up inputs: curl if JSON can hold inputs and outputs, else our client."""
    inputs = [spec for spec in config.inputs if not spec.optional] or list(config.inputs[:1])
    body = orjson.dumps({"inputs": [_input(config, spec) for spec in inputs]}) if _in_json(config, inputs) else b""
    if not body or len(body) > _LONGEST:
        return _client(server, config)
    words = ["curl", "-s", *_trust(server), f"{server.url}/v2/models/{quote(config.name, safe='')}/infer"]
    key = ' -H "Authorization: Bearer $PENSTOCK_API_KEY"' if server.keyed else ""
    return f"{shlex.join(words)}{key} -d {shlex.quote(body.decode())}"


def _in_json(config: ModelConfig, inputs: list[TensorSpec]) -> bool:
    size = sum(math.prod(_shape(config, spec)) for spec in inputs)
    return size <= _LONGEST and not any(spec.datatype in _NOT_IN_JSON for spec in (*inputs, *config.outputs))


def _input(config: ModelConfig, spec: TensorSpec) -> dict[str, Any]:
    shape = _shape(config, spec)
    data = [_VALUES.get(spec.datatype, 0)] * math.prod(shape)
    return {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": data}


def _shape(config: ModelConfig, spec: TensorSpec) -> list[int]:
    return [1 if size < 0 else size for size in config.shape_of(spec)]


def _trust(server: Server) -> list[str]:
    """How curl trusts the certificate. On loopback it is not verified, because it names another host."""
    if not server.certificate:
        return []
    return ["--insecure"] if is_loopback(callable_host(server.host)) else ["--cacert", server.certificate]


def _client(server: Server, config: ModelConfig) -> str:
    words = ["penstock", "infer", config.name, "--random", "1", "--url", server.url]
    trust = f"SSL_CERT_FILE={shlex.quote(server.certificate)} " if server.certificate else ""
    return trust + shlex.join(words)
