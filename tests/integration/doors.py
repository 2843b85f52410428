"""Callers on connections of their own, and what they need to know of a gateway of several processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any, ClassVar

import httpx
import psutil

from tests.integration.fleet import Process


def acceptors(parent: Process) -> dict[int, psutil.Process]:
    """The acceptor processes of a gateway by number; a spare is none yet."""
    found = {}
    for child in psutil.Process(parent.process.pid).children():
        with contextlib.suppress(psutil.Error):
            listening = {each.laddr.port for each in child.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
            if parent.http_port in listening:
                found[child.pid] = child
    return found


def by_label(parent: Process, metric: str) -> dict[str, float]:
    """A metric's values by all of their labels; {} while the metrics port does not answer."""
    try:
        text = httpx.get(f"http://127.0.0.1:{parent.metrics_port}/metrics", timeout=5).text
    except httpx.HTTPError:
        return {}
    return {
        found[1] or "": float(found[2]) for found in re.finditer(rf"^{metric}(\{{.*\}})? (.*)$", text, re.MULTILINE)
    }


class Lost(Exception):
    """The connection ended before the answer."""


class Connection:
    """One connection to a gateway, kept open until `close_all`."""

    opened: ClassVar[list[Connection]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.port: int = writer.get_extra_info("sockname")[1]

    @classmethod
    async def open(cls, parent: Process) -> Connection:
        for last in (False, False, True):
            try:
                streams = await asyncio.open_connection("127.0.0.1", parent.http_port)
                break
            except ConnectionResetError:  # it was in the queue of a process that has just died (decision 0018)
                if last:
                    raise
        cls.opened.append(cls(*streams))
        return cls.opened[-1]

    @classmethod
    async def close_all(cls) -> None:
        closing, cls.opened = cls.opened, []
        for connection in closing:
            connection._writer.close()
            with contextlib.suppress(OSError):
                await connection._writer.wait_closed()

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and body of a request's answer."""
        raw = b"" if body is None else json.dumps(body).encode()
        fields = {"host": "localhost", "content-length": str(len(raw)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        try:
            self._writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + raw)
            answer = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            read = await self._reader.readexactly(int(length[1]) if length else 0)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Lost from error
        with contextlib.suppress(ValueError):
            return int(answer.split(b" ", 2)[1]), json.loads(read)
        return int(answer.split(b" ", 2)[1]), read

    async def count(self, number: int, model: str = "count", **headers: str) -> tuple[int, Any]:
        """Have the counting model note the number."""
        tensor = {"name": "NUMBER", "datatype": "INT64", "shape": [1, 1], "data": [number]}
        return await self.send("POST", f"/v2/models/{model}/infer", {"inputs": [tensor]}, **headers)


def owner_of(parent: Process, connection: Connection) -> int:
    """The number of the process that has the other end of the connection; 0 if none has it yet."""
    for pid, process in acceptors(parent).items():
        with contextlib.suppress(psutil.Error):
            if any(each.raddr and each.raddr.port == connection.port for each in process.net_connections("tcp")):
                return pid
    return 0


async def one_of_each(parent: Process) -> dict[int, Connection]:
    """A connection to every acceptor process."""
    found: dict[int, Connection] = {}
    for _ in range(200):
        connection = await Connection.open(parent)
        assert (await connection.send("GET", "/v2/health/live"))[0] == 200
        found.setdefault(owner_of(parent, connection), connection)
        if len(found) == len(acceptors(parent)):
            return found
    raise AssertionError(f"200 connections reached only {list(found)}")
