"""`penstock models`."""

from __future__ import annotations

import click
import orjson

from penstock.cli.model_aliases import alias
from penstock.cli.options import api_key_option, url_option


@click.group(invoke_without_command=True)
@url_option
@api_key_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
@click.pass_context
def command(ctx: click.Context, url: str, api_key: str, as_json: bool) -> None:
    """List the models that a gateway knows: name, version, state, and why one is not available.

    penstock models --url http://localhost:8000
    """
    if ctx.invoked_subcommand is not None:
        return
    from penstock.client import Client

    with Client(url, api_key=api_key) as client:
        index = client.models()
    if as_json:
        print(orjson.dumps(index, option=orjson.OPT_INDENT_2).decode())
        return
    width = max([len(entry["name"]) for entry in index], default=5)
    for entry in index:
        print(
            f"{entry['name']:{width}}  {entry.get('version', ''):>3}  {entry.get('state', ''):11}  {entry.get('reason', '')}"
        )
    if not index:
        print("no models; a worker announces those of its --model-repository")


command.add_command(alias)
