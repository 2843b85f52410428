"""`penstock models alias`."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import click
import orjson

from penstock.cli.options import api_key_option, options, url_option
from penstock.client.requests import model_path

_ROUTE: Final = re.compile(r"(?P<alias>[^=]+)=(?P<versions>[0-9]+(?::[0-9]+)?(?:,[0-9]+(?::[0-9]+)?)*)\Z")
_SHADOW: Final = re.compile(r"(?P<version>[0-9]+)(?::(?P<share>[0-9.]+))?\Z")

_server = options(url_option, api_key_option)
_json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")


@click.group()
def alias() -> None:
    """Name versions of a model: callers write MODEL@ALIAS, and one command switches all of them.

    \b
        penstock models alias set digits prod=3
        penstock models alias set digits prod=3:90,4:10
        penstock models alias set digits prod=3 --shadow 4:0.1
        penstock models alias rollback digits
    """


@alias.command("set")
@click.argument("model")
@click.argument("routes", nargs=-1, required=True, metavar="ALIAS=VERSION[:WEIGHT][,…]...")
@click.option(
    "--shadow",
    metavar="VERSION[:SHARE]",
    help="Copy this share of the calls to the version, and compare its answers; they are never returned.",
)
@_json_flag
@_server
def set_aliases(model: str, routes: tuple[str, ...], shadow: str | None, as_json: bool, url: str, api_key: str) -> None:
    """Set aliases, all in one step; weights are relative. The alias `default` is for calls that name no version."""
    document = dict(_route(text, shadow) for text in routes)
    _print(_send(url, api_key, "PUT", _path(model), document), as_json)


@alias.command("list")
@click.argument("model", required=False)
@_json_flag
@_server
def list_aliases(model: str | None, as_json: bool, url: str, api_key: str) -> None:
    """List the aliases of MODEL, or of all models."""
    found = _send(url, api_key, "GET", "/v2/repository/aliases" if model is None else _path(model))
    _print(found, as_json)


@alias.command("delete")
@click.argument("model")
@click.argument("name", metavar="ALIAS")
@_json_flag
@_server
def delete_alias(model: str, name: str, as_json: bool, url: str, api_key: str) -> None:
    """Remove an alias: calls that name it are then refused."""
    _print(_send(url, api_key, "DELETE", f"{_path(model)}/{quote(name, safe='')}"), as_json)


@alias.command("rollback")
@click.argument("model")
@_json_flag
@_server
def rollback(model: str, as_json: bool, url: str, api_key: str) -> None:
    """Restore the aliases of MODEL before their last change; a second rollback undoes the first."""
    _print(_send(url, api_key, "POST", f"{_path(model)}/rollback"), as_json)


def _path(model: str) -> str:
    return f"{model_path(model, root='/v2/repository/models')}/aliases"


def _send(url: str, api_key: str, method: str, path: str, document: Any = None) -> Any:
    from penstock.client import Client

    with Client(url, api_key=api_key) as client:
        return client.get(path) if method == "GET" else client.send(method, path, document)


def _route(text: str, shadow: str | None) -> tuple[str, dict[str, Any]]:
    """(alias, route document) of `prod=3:90,4:10`."""
    found = _ROUTE.match(text)
    if found is None:
        raise click.BadParameter(f"'{text}' is not ALIAS=VERSION[:WEIGHT],…, such as prod=3 or prod=3:90,4:10")
    pairs = [part.partition(":") for part in found["versions"].split(",")]
    versions = {version: int(weight or 1) for version, _, weight in pairs}
    if len(versions) < len(pairs):
        raise click.BadParameter(f"'{text}' names a version twice")
    return found["alias"], {"versions": versions, **_shadow(shadow)}


def _shadow(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    found = _SHADOW.match(text)
    try:
        return {"shadow": {"version": found["version"], "share": float(found["share"] or 1)}}  # type: ignore[index]  # None is caught
    except (TypeError, ValueError):
        raise click.BadParameter(f"--shadow '{text}' is not VERSION[:SHARE], such as 4 or 4:0.1") from None


def _print(found: Any, as_json: bool) -> None:
    if as_json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    lines = [line for entry in (found if isinstance(found, list) else [found]) for line in _lines(entry)]
    print("\n".join(lines) if lines else "no aliases; set one with: penstock models alias set MODEL prod=1")


def _lines(entry: dict[str, Any]) -> list[str]:
    """`digits@prod  3:90 4:10  shadow 4:0.1`."""
    lines = []
    for name, route in entry["aliases"].items():
        text = f"{entry['model_name']}@{name}  " + " ".join(f"{v}:{weight}" for v, weight in route["versions"].items())
        if "shadow" in route:
            text += f"  shadow {route['shadow']['version']}:{route['shadow']['share']:g}"
        lines.append(text)
    return lines
