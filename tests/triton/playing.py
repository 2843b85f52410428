"""Plays cases against a server at a URL."""

from __future__ import annotations

import http.client
import json
import math
import re
from typing import Any
from urllib.parse import urlsplit

from tests.triton.case import Answer, Case

TIMEOUT_S = 10.0


def play(url: str, case: Case) -> Answer:
    """The server's answer to one request, on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.putrequest(case.method, case.path)
        for name, value in case.headers:
            connection.putheader(name, value)
        if case.method == "POST":
            connection.putheader("Content-Length", str(len(case.body)))
        connection.endheaders(case.body or None)
        response = connection.getresponse()
        content = response.read()
        length = response.getheader("Inference-Header-Content-Length")
    finally:
        connection.close()
    head, tail = (content[: int(length)], content[int(length) :]) if length else (content, b"")
    body = _decoded(head)
    return Answer(response.status, _counted(body) if case.path.endswith("/stats") else body, tail.hex())


def _decoded(content: bytes) -> Any:
    if not content:
        return ""
    try:
        return _named(json.loads(content))
    except ValueError:
        return content.decode("utf-8", "backslashreplace")


def _counted(value: Any) -> Any:
    """Statistics without their times and moments, which differ with every run."""
    if isinstance(value, list):
        return [_counted(item) for item in value]
    if isinstance(value, dict):
        return {key: 0 if key in ("ns", "last_inference") else _counted(item) for key, item in value.items()}
    return value


def _named(value: Any) -> Any:
    """NaN and the infinities, which equal nothing or are no JSON, as their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"the literal {json.dumps(value)}"
    if isinstance(value, list):
        return [_named(item) for item in value]
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    return _placeless(value) if isinstance(value, str) else value


def _placeless(text: str) -> str:
    """The text with the folder of the model repository cut off paths, which differ by machine."""
    return re.sub(r"/[^\s\"']*?/models/(?=\w+/\d+/model\.py)", "MODELS/", text)
