"""`penstock infer`."""

from __future__ import annotations

import codecs
import contextlib
import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson

from penstock.cli import input_flags
from penstock.cli.files import FILE_OR_STDIN
from penstock.cli.made_up import MadeUp
from penstock.cli.options import api_key_option, insecure_option, seconds, unverified, url_option
from penstock.client import Client, InferResult
from penstock.client.requests import model_path
from penstock.client.timing import sentence
from protocol import bfloat16
from protocol.errors import Code, FleetError, InvalidArgument, quoted
from protocol.tensors import Array, Tensor, from_array

_SHOWN = 32
"""Elements of an output that are printed."""
_MAX_BODY = 1 << 30


class Rows(click.IntRange):
    """A number of rows; what follows `--random` by mistake is mostly the model."""

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        if isinstance(value, str) and not value.lstrip("+-").isdecimal():
            self.fail(
                f"{quoted(value)} is no number of rows; the model comes first: penstock infer {shlex.quote(value)} --random",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


@click.command()
@click.argument("model")
@click.option(
    "--input", "-i", "inputs", multiple=True, metavar="NAME=JSON", help="A tensor, as nested lists; may be repeated."
)
@click.option("--file", "-f", "file", type=FILE_OR_STDIN, help="A V2 JSON body; - reads standard input.")
@click.option(
    "--random",
    "random_rows",
    is_flag=False,
    flag_value=1,
    type=Rows(),
    help="Make up the inputs that --input does not give, with this number of rows. Free sizes are tried until the model takes them. [1]",  # noqa: E501
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=SIZES",
    help="The shape of a random input, such as image=1,3,224,224; may be repeated.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random inputs.")
@click.option("--version", "version", default="", help="Model version. [the highest that is ready]")
@click.option("--timeout", type=float, callback=seconds, help="Seconds to wait for the answer. [the gateway's default]")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@url_option
@api_key_option
@insecure_option
def command(
    model: str,
    inputs: tuple[str, ...],
    file: Path | None,
    random_rows: int | None,
    shapes: tuple[str, ...],
    seed: int,
    version: str,
    timeout: float | None,
    as_json: bool,
    url: str,
    api_key: str,
    insecure: bool,
) -> None:
    """Send one request to MODEL and print the answer.

    \b
        penstock infer mymodel -i 'A=[[1,2,3,4]]' -i 'B=[[10,20,30,40]]'
        penstock infer mymodel --random 8
        penstock infer mymodel --random --shape image=1,3,224,224
    """
    if file is not None and (inputs or shapes or random_rows is not None):
        raise InvalidArgument("the inputs come from --file, or from --input and --random, not from both")
    if version and not (version.isascii() and version.isdecimal()):
        raise InvalidArgument(
            f"--version {quoted(version)} must be a number; an alias is part of the name: {model}@ALIAS"
        )
    for text in inputs:
        if "=" not in text:
            raise click.UsageError(f"--input {text!r} must be NAME=JSON, for example -i 'A=[[1,2,3,4]]'")
    with Client(url, api_key=api_key, tls=unverified(url, insecure=insecure)) as client:
        asked = _Asked(client, model, version)

        def call(arrays: dict[str, Array]) -> InferResult:
            return client.infer(model, _typed(arrays, asked.inputs), version=version, timeout=timeout)

        if file is not None:
            result = call(_from_body(file))
        elif random_rows is None and not shapes:
            given = input_flags.each_once(input_flags.parse_input(text, asked.inputs) for text in inputs)
            result = _sent(call, given, asked)
        else:
            given = input_flags.each_once(input_flags.parse_input(text, asked.inputs) for text in inputs)
            stated = input_flags.each_once(input_flags.parse_shape(text, asked.inputs) for text in shapes)
            input_flags.each_once((name, None) for name in (*given, *stated))
            made_up = MadeUp(asked.inputs, asked.required, batches=asked.batches, rows=random_rows or 1, seed=seed)
            result = made_up.infer(given, stated, call)
    if as_json:
        print(orjson.dumps(_plain(result), option=orjson.OPT_INDENT_2).decode())
    else:
        _show(result)


class _Asked:
    """What the server says of a model's inputs.

    Args:
        client: of the server.
        model, version: the model's; version "" for the highest that is ready.

    Attributes:
        inputs: V2's metadata, by name.
    """

    def __init__(self, client: Client, model: str, version: str) -> None:
        self._client = client
        path, self._path = model_path(model), model_path(model, version)
        try:
            metadata = client.get(self._path)
        except FleetError as error:
            if error.code is not Code.NOT_FOUND or not version:
                raise
            versions = ", ".join(client.get(path)["versions"])
            raise FleetError(
                f"{error.message}; versions that are ready: {versions or 'none'}", code=error.code
            ) from None
        self.inputs: dict[str, Any] = {entry["name"]: entry for entry in metadata["inputs"]}

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        """The configuration; empty where a server does not show it to everybody."""
        try:
            config: dict[str, Any] = self._client.get(f"{self._path}/config")
        except FleetError:
            return {}
        return dict(config.get("config", config))

    @property
    def required(self) -> frozenset[str]:
        """Names of the inputs that a request must have."""
        optional = {entry["name"] for entry in self._config.get("input", ()) if entry.get("optional")}
        return frozenset(self.inputs) - optional or frozenset(self.inputs)

    @property
    def batches(self) -> bool:
        """Whether the first size of every input counts rows."""
        if not self._config:
            return all(entry["shape"][:1] == [-1] for entry in self.inputs.values())
        return int(self._config.get("max_batch_size", 0)) > 0


def _sent(call: Callable[[dict[str, Array]], InferResult], given: dict[str, Array], asked: _Asked) -> InferResult:
    """The answer to given inputs; a refusal says which are missing, and how to give them."""
    try:
        return call(given)
    except FleetError as error:
        if error.code is not Code.INVALID_ARGUMENT:
            raise
        required = [name for name in asked.inputs if name in asked.required]
        raise InvalidArgument(input_flags.missing(given, required, asked.inputs) or error.message.rstrip()) from None


def _from_body(file: Path) -> dict[str, Array]:
    """The inputs of a V2 JSON body in a file; `-` is standard input."""
    from protocol import v2

    with contextlib.ExitStack() as stack:
        source = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        body = source.read(_MAX_BODY + 1)
    if len(body) > _MAX_BODY:
        raise InvalidArgument(f"--file {file} has more than {_MAX_BODY} bytes, the most that a request may have")
    try:
        return {tensor.name: tensor.array() for tensor in v2.parse_json_body(_utf8(body)).inputs}
    except InvalidArgument as error:
        raise InvalidArgument(f"--file {file}: {error.message}") from None


def _utf8(body: bytes) -> bytes:
    """Text as PowerShell and Windows' editors write it, with a byte order mark, as UTF-8."""
    marked = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marked.items() if body.startswith(mark)), "")
    return body.decode(encoding, errors="replace").encode() if encoding else body


def _typed(arrays: dict[str, Array], inputs: dict[str, Any]) -> dict[str, Array | Tensor]:
    """BF16 as a `Tensor`; all other datatypes follow from the arrays."""
    return {
        name: from_array(name, array, "BF16") if inputs.get(name, {}).get("datatype") == "BF16" else array
        for name, array in arrays.items()
    }


def _plain(result: InferResult) -> dict[str, Any]:
    return {
        "model_name": result.model,
        "model_version": result.version,
        "outputs": {name: _lists(array) for name, array in _shown(result).items()},
        "request_id": result.request_id,
        "timing": result.timing,
    }


def _shown(result: InferResult) -> dict[str, Array]:
    """The outputs as numbers, including those that are bits."""
    return {
        name: bfloat16.to_floats(array) if result.datatypes.get(name) == "BF16" else array
        for name, array in result.outputs.items()
    }


def _lists(array: Array) -> Any:
    if array.dtype == object:
        return (
            np.array([item.decode(errors="replace") for item in array.reshape(-1)], dtype=object)
            .reshape(array.shape)
            .tolist()
        )
    return array.tolist()


def _show(result: InferResult) -> None:
    print(f"{result.model} version {result.version}")
    for name, array in _shown(result).items():
        text = np.array2string(
            np.array(_lists(array), dtype=object) if array.dtype == object else array, threshold=_SHOWN, precision=5
        )
        print(f"{name} {list(array.shape)} = {text}")
    print(f"request {result.request_id}")
    told = sentence(result.times)
    if told:
        print(told)
