"""`penstock infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import numpy as np
import orjson

from penstock.cli.options import api_key_option, seconds, url_option
from penstock.client import Client, InferResult, bfloat16
from penstock.client.timing import sentence
from penstock.client.values import array_of
from protocol.errors import MAX_QUOTED, Code, CodecError, FleetError, InvalidArgument
from protocol.tensors import NUMPY_DTYPE, Array, Tensor, from_array

_SHOWN = 32
"""Elements of an output that are printed."""
_MOST_ROWS = 1_000_000
"""Maximum number of random rows: even with one element each, more would exceed the size limit of a request."""


@click.command()
@click.argument("model")
@click.option(
    "--input", "-i", "inputs", multiple=True, metavar="NAME=JSON", help="A tensor, as nested lists; may be repeated."
)
@click.option(
    "--file", "-f", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A V2 JSON body."
)
@click.option(
    "--random",
    "random_rows",
    is_flag=False,
    flag_value=1,
    type=click.IntRange(1),
    help="Send random inputs with this number of rows. [1]",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random inputs.")
@click.option("--version", "version", default="", help="Model version. [the highest that is ready]")
@click.option("--timeout", type=float, callback=seconds, help="Seconds to wait for the answer. [the gateway's default]")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@url_option
@api_key_option
def command(
    model: str,
    inputs: tuple[str, ...],
    file: Path | None,
    random_rows: int | None,
    seed: int,
    version: str,
    timeout: float | None,
    as_json: bool,
    url: str,
    api_key: str,
) -> None:
    """Send one request to MODEL and print the answer.

    \b
        penstock infer mymodel -i 'A=[[1,2,3,4]]' -i 'B=[[10,20,30,40]]'
        penstock infer mymodel --random 8
    """
    if bool(inputs) + (file is not None) + (random_rows is not None) > 1:
        raise InvalidArgument("the inputs come from one of --input, --file and --random")
    with Client(url, api_key=api_key) as client:
        path = f"/v2/models/{quote(model, safe='')}"
        metadata = client.get(path + (f"/versions/{quote(version, safe='')}" if version else ""))
        kinds = {entry["name"]: entry for entry in metadata["inputs"]}
        if random_rows is not None:
            arrays = _random(kinds, random_rows, np.random.default_rng(abs(seed)))
        elif file is not None:
            arrays = _from_body(file)
        else:
            arrays = dict(_parse(text, kinds) for text in inputs)
        try:
            result = client.infer(model, _typed(arrays, kinds), version=version, timeout=timeout)
        except FleetError as error:
            if arrays or error.code is not Code.INVALID_ARGUMENT:
                raise
            raise InvalidArgument(f"{error.message}; {_wanted(metadata['inputs'])}") from None
    if as_json:
        print(orjson.dumps(_plain(result), option=orjson.OPT_INDENT_2).decode())
    else:
        _show(result)


def _wanted(inputs: list[dict[str, Any]]) -> str:
    """Advice for a call without inputs."""
    named = ", ".join(f"{entry['name']} {entry['datatype']}{entry['shape']}" for entry in inputs)
    return f"the model takes {named or 'nothing'}: give inputs as -i NAME=JSON or --file, or random ones with --random"


def _parse(text: str, kinds: dict[str, Any]) -> tuple[str, Array]:
    name, equals, raw = text.partition("=")
    if not equals:
        raise click.UsageError(f"--input {text!r} must be NAME=JSON, for example -i 'A=[[1,2,3,4]]'")
    if name not in kinds:
        raise InvalidArgument(f"the model has no input '{name}'; it has {', '.join(kinds)}")
    try:
        return name, array_of(name, kinds[name]["datatype"], orjson.loads(raw))
    except orjson.JSONDecodeError as exc:
        raise InvalidArgument(f"--input {name}: {raw[:MAX_QUOTED]!r} is not JSON: {exc}") from None
    except CodecError as exc:
        raise InvalidArgument(f"--input {exc.message.removeprefix('input ')}") from None


def _from_body(file: Path) -> dict[str, Array]:
    from protocol import v2

    return {tensor.name: tensor.array() for tensor in v2.parse_json_body(file.read_bytes()).inputs}


def _typed(arrays: dict[str, Array], kinds: dict[str, Any]) -> dict[str, Array | Tensor]:
    """BF16 as a `Tensor`; all other datatypes follow from the arrays."""
    return {
        name: from_array(name, array, "BF16") if kinds.get(name, {}).get("datatype") == "BF16" else array
        for name, array in arrays.items()
    }


def _random(kinds: dict[str, Any], rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Inputs of the metadata's shapes: the first free size is the rows, any other is 1."""
    arrays: dict[str, Array] = {}
    if rows > _MOST_ROWS:
        raise InvalidArgument(f"--random generates at most {_MOST_ROWS} rows, not {rows}")
    for name, entry in kinds.items():
        free = iter([rows])
        shape = tuple(next(free, 1) if size == -1 else size for size in entry["shape"])
        arrays[name] = _values(entry["datatype"], shape, rng)
    return arrays


def _values(datatype: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = NUMPY_DTYPE[datatype]
    if datatype == "BYTES":
        values = np.empty(shape, dtype=object)
        values.reshape(-1)[:] = [f"text {number}" for number in rng.integers(0, 1000, values.size)]
        return values
    if datatype == "BF16":
        return bfloat16.to_bits(rng.standard_normal(shape))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if datatype == "BOOL" else 100, shape).astype(dtype)


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
