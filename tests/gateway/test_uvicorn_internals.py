"""Undocumented names of uvicorn: each that the gateway uses exists, and no other file uses one."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httptools
import pytest

from gateway.rest import uvicorn_internals as internals
from gateway.rest.connection import InferConnection, Refusal
from gateway.rest.exchange import Exchange
from gateway.rest.reading import GONE

REST = Path(internals.__file__).parent
ATTRIBUTES = sorted(internals.UvicornConnection.__annotations__)
METHODS = (*internals.OVERRIDDEN, *internals.INHERITED)
OWNERS = {
    "flow": internals.FLOW,
    "server_state": internals.STATE,
    "parser": internals.PARSER,
    "_server": internals.SERVER,
}


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers nothing."""


class Connected(asyncio.Transport):
    """A transport without a peer."""


async def parts() -> dict[str, Any]:
    """uvicorn's objects as they are while a request is read."""
    config = internals.Config(_app, http="httptools", ws="none", lifespan="off", log_config=None)
    config.load()
    server = internals.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[])
    protocol = internals.HttpToolsProtocol(config, server.server_state, {}, asyncio.get_running_loop())
    protocol.connection_made(Connected())
    protocol.on_message_begin()
    protocol.on_url(b"/")
    cycle = internals.RequestResponseCycle(
        protocol.scope, protocol.transport, protocol.flow, protocol.logger, protocol.access_logger, False, [], asyncio.Event(),
        False, True, lambda: None,
    )  # fmt: skip
    return {
        "config": config, "server": server, "protocol": protocol, "flow": protocol.flow, "state": server.server_state,
        "parser": protocol.parser, "cycle": cycle,
    }  # fmt: skip


def every_name() -> Iterator[tuple[str, str]]:
    for owner, names in {
        "protocol": (*ATTRIBUTES, *METHODS), "cycle": internals.CYCLE, "flow": internals.FLOW, "state": internals.STATE,
        "server": internals.SERVER, "config": internals.CONFIG, "parser": internals.PARSER,
    }.items():  # fmt: skip
        yield from ((owner, name) for name in names)


@pytest.mark.parametrize(("owner", "name"), list(every_name()), ids=lambda part: part)
async def test_uvicorn_has_what_the_gateway_uses(owner: str, name: str) -> None:
    assert hasattr((await parts())[owner], name), f"this uvicorn's {owner} has no {name}"


@pytest.mark.parametrize("name", internals.OVERRIDDEN)
def test_what_is_overridden_is_uvicorns(name: str) -> None:
    assert callable(getattr(internals.HttpToolsProtocol, name))
    assert getattr(InferConnection, name) is not getattr(internals.HttpToolsProtocol, name)


@pytest.mark.parametrize("name", internals.CYCLE_READ)
def test_what_stands_in_for_a_cycle_has_what_uvicorn_reads_of_one(name: str) -> None:
    exchange = Exchange(None, "m", "", {}, keep_alive=True, expects=False)  # type: ignore[arg-type]
    assert all(hasattr(cycle, name) for cycle in (exchange, Refusal(400, ""), GONE))


async def test_an_upgrade_leaves_the_parser_where_the_head_ends() -> None:
    head = b"POST / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 4\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        httptools.HttpRequestParser(object()).feed_data(head + b"body")
    assert upgrade.value.args[0] == len(head)


@pytest.mark.parametrize("name", ["reading.py", "connection.py"])
async def test_nothing_else_of_the_protocol_is_used(name: str) -> None:
    theirs = set(dir((await parts())["protocol"])) - set(dir(object))
    used = {
        node.attr
        for node in ast.walk(ast.parse((REST / name).read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    assert used & theirs <= {*ATTRIBUTES, *METHODS}


@pytest.mark.parametrize("owner", OWNERS)
def test_nothing_else_of_its_parts_is_used(owner: str) -> None:
    used = {
        node.attr
        for file in REST.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == owner
    }
    assert used <= set(OWNERS[owner])


def test_only_one_file_imports_uvicorn() -> None:
    importing = {
        file.name
        for file in REST.parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "uvicorn")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "uvicorn" for alias in node.names))
    }
    assert importing == {"uvicorn_internals.py"}
