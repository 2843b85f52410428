"""A real S3 server (moto's) for tests, behind a proxy that counts requests and can break them."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "models"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "hidden-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}

Breaker = Callable[["Proxy", http.server.BaseHTTPRequestHandler, bytes, http.client.HTTPResponse], bytes | None]


class Proxy:
    """Passes requests on to the store.

    Attributes:
        gets: keys of the objects that were read, with the range, in order.
        lists: listings.
        cut: bytes after which the body of the next GETs ends, one entry each; None passes it on.
        change: called before a GET is passed on.
        slow: seconds before each 64 KB of a body.
        corrupt: how many of the next bodies have a wrong first byte.
        down: whether connections are ended unanswered.
    """

    def __init__(self, port: int) -> None:
        self.gets: list[tuple[str, str]] = []
        self.lists = 0
        self.cut: list[int | None] = []
        self.corrupt = 0
        self.slow = 0.0
        self.down = False
        self.change: Callable[[str], None] | None = None
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                if proxy.down:
                    self.close_connection = True
                    return
                proxy.pass_on(self, port)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def pass_on(self, handler: http.server.BaseHTTPRequestHandler, port: int) -> None:
        path = handler.path.partition("?")[0]
        key = path.removeprefix(f"/{BUCKET}").lstrip("/")
        if key:
            self.gets.append((key, handler.headers.get("Range", "")))
            if self.change is not None:
                self.change(key)
        else:
            self.lists += 1
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", handler.path, headers=dict(handler.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                handler.send_header(name, value)
        handler.end_headers()
        if key and answer.status < 300:
            if self.corrupt and body:
                self.corrupt -= 1
                body = bytes([body[0] ^ 1]) + body[1:]
            cut = self.cut.pop(0) if self.cut else None
            body = body if cut is None else body[:cut]
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(body), 65536):
                if self.slow and key:
                    time.sleep(self.slow)
                handler.wfile.write(body[start : start + 65536])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class ObjectStore:
    """A bucket.

    Attributes:
        client: writes to it.
        proxy: what workers read from.
    """

    def __init__(self, port: int, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
            aws_access_key_id="tester", aws_secret_access_key="hidden-secret",
        )  # fmt: skip
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def url(self) -> str:
        return f"s3://http://127.0.0.1:{self.proxy.port}/{BUCKET}/prod"

    def put(self, key: str, content: bytes | str, **more: Any) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body, **more)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    proxy = Proxy(port)
    store = ObjectStore(port, proxy)
    try:
        yield store
    finally:
        proxy.close()
        for bucket in store.client.list_buckets()["Buckets"]:
            for each in store.client.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
                store.client.delete_object(Bucket=bucket["Name"], Key=each["Key"])
            store.client.delete_bucket(Bucket=bucket["Name"])
        store.client.close()
        server.stop()
