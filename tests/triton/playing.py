"""Plays cases against a server."""

from __future__ import annotations

import dataclasses
import gzip
import http.client
import json
import math
import re
import zlib
from typing import Any
from urllib.parse import urlsplit

from tests.triton.case import UNANSWERED, Answer, Case, RpcCase
from tests.triton.rpc_playing import play_rpc

TIMEOUT_S = 10.0
READ_BY_CLIENTS = ("content-type", "content-encoding")
"""Of answers with a body; the content type of an error is Triton's only by accident: text for some, JSON for others."""
INFLATE = {"gzip": gzip.decompress, "deflate": zlib.decompress}
COUNTED = ("success", "failure", "count", "exec_count")
"""Metrics of a model that count requests, without the `nv_inference_` and `request_` before them; others measure times."""


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens.

    Attributes:
        grpc: host and port; "" for none.
        metrics: URL of the metrics; "" for none.
    """

    http: str
    grpc: str = ""
    metrics: str = ""


def answer_of(server: Server, case: Case | RpcCase) -> Answer:
    """What the server says, if it says anything."""
    try:
        if isinstance(case, RpcCase):
            return clean(play_rpc(server.grpc, case))
        return play_metrics(server, case.path) if case.method == "METRICS" else play(server.http, case)
    except (OSError, http.client.HTTPException):
        return UNANSWERED


def play(url: str, case: Case) -> Answer:
    """The server's answer to one request, on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.putrequest(case.method, case.path, skip_accept_encoding=True)
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
    good = response.status == 200 and content
    headers = {name: value for name in READ_BY_CLIENTS if good and (value := response.getheader(name)) is not None}
    content = INFLATE.get(headers.get("content-encoding", ""), bytes)(content)
    head, tail = (content[: int(length)], content[int(length) :]) if length else (content, b"")
    return clean(Answer(response.status, _decoded(head), tail.hex(), headers))


def play_metrics(server: Server, model: str) -> Answer:
    """What the metrics count of a model."""
    parts = urlsplit(server.metrics)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        if name.removeprefix("nv_inference_").removeprefix("request_") in COUNTED and f'model="{model}"' in labels:
            known = sorted(label for label in labels.split(",") if not label.startswith("gpu_uuid"))
            found[f"{name}{{{','.join(known)}}}"] = float(value)
    return Answer(200, dict(sorted(found.items())))


def clean(answer: Answer) -> Answer:
    """The answer without what differs with every run or machine."""
    return dataclasses.replace(answer, body=_named(answer.body))


def _decoded(content: bytes) -> Any:
    if not content:
        return ""
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "backslashreplace")


def _named(value: Any, key: str = "") -> Any:
    """Without times and moments; NaN and the infinities, which equal nothing or are no JSON, as their names."""
    if key in ("ns", "last_inference"):
        return 0
    if isinstance(value, float) and not math.isfinite(value):
        return f"the literal {json.dumps(value)}"
    if isinstance(value, list):
        return [_named(item) for item in value]
    if isinstance(value, dict):
        return {name: _named(item, name) for name, item in value.items()}
    return _placeless(value) if isinstance(value, str) else value


def _placeless(text: str) -> str:
    """The text with the folder of the model repository cut off paths, which differ by machine."""
    return re.sub(r"/[^\s\"']*?/models/(?=\w+/\d+/model\.py)", "MODELS/", text)
