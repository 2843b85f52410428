"""Every undocumented name of uvicorn that the gateway uses or overrides. No other file imports uvicorn.

pyproject.toml bounds uvicorn to the version that the tests ran on. When that bound moves,
`tests/gateway/test_uvicorn_internals.py` names what is missing. `docs/decisions/0002-infer-route-in-uvicorns-protocol.md` says why
there is a subclass.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import httptools
from uvicorn import Config, Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

__all__ = [
    "STATUS_LINE",
    "Config",
    "FlowControl",
    "HttpToolsProtocol",
    "RequestResponseCycle",
    "Server",
    "ServerState",
    "UvicornConnection",
    "new_parser",
]


class UvicornConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol. Subclasses use the attributes that are declared here and override `OVERRIDDEN`.

    `cycle` is the request that was begun last, `pipeline` holds those that wait, oldest last. uvicorn's own methods read
    `CYCLE_READ` of a cycle, so any stand-in for a cycle needs these.
    """

    app: Any
    connections: set[Any]
    cycle: Any
    expect_100_continue: bool
    flow: FlowControl
    headers: list[tuple[bytes, bytes]]
    loop: asyncio.AbstractEventLoop
    parser: Any
    pipeline: deque[tuple[Any, Any]]
    server_state: ServerState
    transport: asyncio.Transport
    url: bytes


def new_parser(protocol: HttpToolsProtocol) -> Any:
    """A parser at the start of a message, as the protocol makes its own."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


OVERRIDDEN: Final = (
    "_start_asgi_task", "connection_lost", "connection_made", "data_received", "on_body", "on_header", "on_headers_complete",
    "on_message_begin", "on_message_complete", "on_response_complete", "pause_writing", "resume_writing",
)  # fmt: skip
"""Methods of the protocol: the parser, the event loop and uvicorn itself call them."""
INHERITED: Final = ("on_url", "shutdown")
"""Methods of the protocol that are called as they are."""
CYCLE_READ: Final = ("keep_alive", "response_complete")
"""What `on_headers_complete`, `connection_lost` and `shutdown` of the protocol read of a cycle."""
CYCLE: Final = (*CYCLE_READ, "body", "disconnected", "message_event", "more_body", "response_started", "scope")
FLOW: Final = ("pause_reading", "read_paused", "resume_reading", "write_paused")
STATE: Final = ("connections", "default_headers", "tasks", "total_requests")
SERVER: Final = ("lifespan", "server_state", "servers", "started", "startup")
CONFIG: Final = ("lifespan_class", "load")
PARSER: Final = (
    "feed_data", "get_http_version", "get_method", "set_dangerous_leniencies", "should_keep_alive", "should_upgrade",
)  # fmt: skip
"""Of httptools' parser: documented except for what `feed_data` leaves after an upgrade."""
