"""The lines that `penstock serve` prints for each model: a working shell command that calls it. Pure."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson

from penstock.cli import input_flags
from protocol.example_shapes import candidates
from protocol.frames import MAX_RECORD
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import ITEM_SIZE
from protocol.texts import shortened, visible
from protocol.urls import callable_host, is_loopback, server_url

_VALUES: Final[Mapping[str, Sequence[Any]]] = {
    "BYTES": ["text"],
    "BOOL": [True],
    **dict.fromkeys(("FP16", "FP32", "FP64"), tuple(tenth / 10 for tenth in range(1, 10))),
}
"""The elements by datatype, over and over; 0 for all others. Of zeros, or of one number only, logarithms and normalisations make
infinities and NaN, which JSON does not have."""
_NOT_IN_JSON: Final = frozenset({"FP16", "BF16"})
"""Datatypes that the V2 protocol sends only as bytes, which a terminal cannot show."""
_LONGEST: Final = 600
"""Longest body that is still practical to paste, in characters."""
_REASON: Final = 300
"""Characters of a model's refusal that are printed."""


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

    @property
    def local(self) -> bool:
        """Whether only this machine is called, so that its certificate, which names another host, need not be verified."""
        return is_loopback(callable_host(self.host))

    def command(self, *words: str) -> str:
        """A line that calls one of our commands with this server's URL."""
        insecure = ["--insecure"] if self.certificate and self.local else []
        trust = "" if not self.certificate or insecure else f"SSL_CERT_FILE={shlex.quote(self.certificate)} "
        return trust + shlex.join(["penstock", *words, *insecure, "--url", self.url])


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """What a loaded model did with made-up inputs.

    Attributes:
        shapes: those that it accepted, by input; None if it was not tried.
        refused: why it accepted none.
        running: seconds after which it had not answered, and still runs.
    """

    shapes: Mapping[str, Sequence[int]] | None = None
    refused: str = ""
    running: float = 0.0


def example(server: Server, config: ModelConfig, trial: Trial = Trial()) -> str:
    """Two lines: where the model is served, and a command that calls it with made-up inputs; a third if it is slow.

    The command is curl if JSON can hold inputs and outputs, else ours, which also finds out the sizes that nobody knows yet. A
    model that accepts no made-up inputs gets none.
    """
    served = f"{config.name} is served at {server.url}"
    if trial.refused:
        return f"{served}; {_real_inputs(server, config, trial.refused)}"
    shapes = _shapes(config, trial)
    if shapes is not None and (size := _bytes(config, shapes)) > MAX_RECORD:
        return f"{served}; one row has {size} bytes, and a request holds at most {MAX_RECORD}: export it with smaller inputs"
    slow = (
        f"\n  a made-up call has not been answered in {trial.running:g} s; others wait until it is"
        if trial.running
        else ""
    )
    return f"{served}; try:\n  {_call(server, config, shapes)}{slow}"


def _real_inputs(server: Server, config: ModelConfig, refused: str) -> str:
    """Advice for a model that takes no made-up inputs."""
    inputs = [
        {"name": spec.name, "datatype": spec.datatype, "shape": config.shape_of(spec)}
        for spec in example_inputs(config)
    ]
    takes = ", ".join(f"{entry['name']} {entry['datatype']}{list(entry['shape'])}" for entry in inputs)
    certain = input_flags.certain(inputs, batches=config.batching) or "-i NAME=JSON"
    why = visible(" ".join(shortened(refused, _REASON).split()))
    return (
        f"it refuses made-up inputs: {why}\n"
        f"  it takes {takes}; give real ones with -i NAME=JSON, and --random makes up the others:\n"
        f"  {server.command('infer', config.name, '--random')} {certain}"
    )


def example_inputs(config: ModelConfig) -> list[TensorSpec]:
    """The inputs of the example: those that a request must have, but at least one."""
    return [spec for spec in config.inputs if not spec.optional] or list(config.inputs[:1])


def _call(server: Server, config: ModelConfig, shapes: Mapping[str, Sequence[int]] | None) -> str:
    if shapes is None:
        return _client(server, config, {})
    body = orjson.dumps({"inputs": _inputs(config, shapes)}) if _in_json(config, shapes) else b""
    if not body or len(body) > _LONGEST:
        return _client(server, config, shapes)
    trust = [] if not server.certificate else ["--insecure"] if server.local else ["--cacert", server.certificate]
    words = ["curl", "-sS", *trust, f"{server.url}/v2/models/{quote(config.name, safe='')}/infer"]
    key = ' -H "Authorization: Bearer $PENSTOCK_API_KEY"' if server.keyed else ""
    return f"{shlex.join(words)}{key} -d {shlex.quote(body.decode())}"


def _bytes(config: ModelConfig, shapes: Mapping[str, Sequence[int]]) -> int:
    """Of the example's inputs, without those of texts."""
    specs = [spec for spec in example_inputs(config) if spec.name in shapes]
    return sum(math.prod(shapes[spec.name]) * ITEM_SIZE[spec.datatype] for spec in specs)


def _shapes(config: ModelConfig, trial: Trial) -> Mapping[str, Sequence[int]] | None:
    """The shapes of the example; None if they can only be found by trying."""
    if trial.shapes is not None:
        return trial.shapes
    specs = example_inputs(config)
    if any(size < 0 for spec in specs for size in spec.dims):
        return None
    return next(candidates({spec.name: config.shape_of(spec) for spec in specs}, 1 if config.batching else None))


def _in_json(config: ModelConfig, shapes: Mapping[str, Sequence[int]]) -> bool:
    size = sum(math.prod(shape) for shape in shapes.values())
    return size <= _LONGEST and not any(
        spec.datatype in _NOT_IN_JSON for spec in (*example_inputs(config), *config.outputs)
    )


def _inputs(config: ModelConfig, shapes: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "shape": shapes[spec.name],
            "datatype": spec.datatype,
            "data": values(spec.datatype, math.prod(shapes[spec.name])),
        }
        for spec in example_inputs(config)
    ]


def values(datatype: str, count: int) -> list[Any]:
    """The elements of an input of the example."""
    return list(itertools.islice(itertools.cycle(_VALUES.get(datatype, [0])), count))


def _client(server: Server, config: ModelConfig, shapes: Mapping[str, Sequence[int]]) -> str:
    """Our command, with the sizes that the configuration leaves free."""
    words = ["infer", config.name, "--random", "1"]
    for spec in config.inputs:
        if spec.name in shapes and any(size < 0 for size in spec.dims):
            words += ["--shape", f"{spec.name}={','.join(map(str, shapes[spec.name]))}"]
    if config.name.startswith("-"):
        words = ["infer", "--random", "1", *words[4:]]
        return f"{server.command(*words)} -- {shlex.quote(config.name)}"
    return server.command(*words)
