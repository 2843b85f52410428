"""HTTP/1.1 as the clients speak it: the bytes of a request, and an answer from its bytes. Pure.

Both clients share it, so that they differ only in how they wait. The parser is httptools', which the gateway uses too.
Invariant: any bytes give an answer or one of our errors, and are counted before they are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

import httptools

from penstock.client.addresses import Address
from protocol.errors import CodecError, InvalidArgument, TooLarge, quoted

MAX_HEAD: Final = 64 * 1024
"""Bytes of an answer's status line and headers."""
CLOSED: Final = "closed the connection before its answer was complete"
_FINAL: Final = 200
_SHOWN: Final = 40


@dataclasses.dataclass(slots=True)
class Answered:
    """An HTTP answer.

    Attributes:
        headers: by name in lower case; of a repeated one the last.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class NotHttp(InvalidArgument):
    """The server's answer is not HTTP."""


class Heads:
    """Makes the heads of requests to one server.

    Args:
        address: the server.
        proxy: gets the whole URL in place of the path, if it stands before a server without TLS.
        fixed: headers of every request.
    """

    def __init__(self, address: Address, proxy: Address | None, fixed: Mapping[str, str]) -> None:
        whole = proxy is not None and address.scheme == "http"
        self._target = f"http://{address.authority}{address.path}" if whole else address.path
        lines = {"host": address.authority, **fixed}
        if proxy is not None and whole and proxy.credentials:
            lines["proxy-authorization"] = proxy.credentials
        self._fixed = "".join([f"{_line(name, value)}\r\n" for name, value in lines.items()])

    def request(self, method: str, path: str, headers: Mapping[str, str], size: int) -> bytes:
        """The head of a request with a body of `size` bytes.

        Raises:
            InvalidArgument: a header's value has a character that cannot travel in one.
        """
        lines = "".join([f"{_line(name, value)}\r\n" for name, value in headers.items()])
        length = f"content-length: {size}\r\n" if size or method == "POST" else ""
        return f"{method} {self._target}{path} HTTP/1.1\r\n{self._fixed}{lines}{length}\r\n".encode("latin-1")


def _line(name: str, value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise InvalidArgument(f"{name} must be printable ASCII, as it travels in a header, not {quoted(value)}")
    return f"{name}: {value}"


def tls_advice(url: str) -> str:
    """The end of a sentence about a server that closed a new connection: it may have expected TLS."""
    return "; if it speaks TLS, its URL begins with https://" if url.startswith("http://") else ""


def connect_head(address: Address, proxy: Address) -> bytes:
    """Asks a proxy for a tunnel to the server."""
    place = f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
    credentials = f"proxy-authorization: {proxy.credentials}\r\n" if proxy.credentials else ""
    return f"CONNECT {place} HTTP/1.1\r\nhost: {place}\r\n{credentials}\r\n".encode("latin-1")


def tunnel_status(data: bytes) -> int | None:
    """The status in a proxy's answer to `connect_head`; None if its head has not arrived yet.

    Raises:
        NotHttp: it is not an answer.
    """
    head, end, _ = data.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(data) > MAX_HEAD or (end and not (words[0].startswith(b"HTTP/") and len(words) > 1 and words[1].isdigit())):
        raise NotHttp(f"the proxy is not an HTTP proxy: its answer begins with {quoted(data[:_SHOWN])}")
    return int(words[1]) if end else None


class AnswerReader:
    """Reads the answers on one connection, one after the other.

    Args:
        server: its URL, for errors.
        most: bytes of a body.

    Attributes:
        reusable: whether the connection can take another request after the answer that was just returned.
    """

    def __init__(self, server: str, most: int) -> None:
        self._server = server
        self._most = most
        self._parser = httptools.HttpResponseParser(self)
        self.reusable = False
        self._begin()

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._headed = False
        self._done: Answered | None = None
        self._extra = self._keep = False

    def feed(self, data: bytes) -> Answered | None:
        """The answer, if these bytes complete it.

        Raises:
            NotHttp: the bytes are not an HTTP answer.
            CodecError: the answer is broken in the middle.
            TooLarge: it is over the limit.
        """
        if not self._headed:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise NotHttp(f"{self._server} is not answered by a gateway: it wants another protocol") from None
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, TooLarge):
                raise error.__context__ from None
            raise CodecError(f"the answer of {self._server} cannot be read: {error}") from None
        except httptools.HttpParserError as error:
            if self._done is not None:
                self._extra = True
                return self._take()
            if self._headed or self._headers:
                raise CodecError(f"the answer of {self._server} is not valid HTTP: {error}") from None
            raise NotHttp(
                f"{self._server} is not an HTTP server: its answer begins with {quoted(data[:_SHOWN])}"
            ) from None
        if not self._headed and self._head_size > MAX_HEAD:
            raise TooLarge(f"the answer of {self._server} has headers of more than {MAX_HEAD} bytes")
        return self._take()

    def ended(self) -> Answered | None:
        """The answer, if the end of the connection completes it: one without a length."""
        if self._headed and not {"content-length", "transfer-encoding"} & self._headers.keys():
            self.on_message_complete()
        return self._take(ended=True)

    def _take(self, *, ended: bool = False) -> Answered | None:
        done = self._done
        if done is not None:
            self.reusable = self._keep and not ended and not self._extra
            self._begin()
        return done

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._done is not None:
            self._extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if self._done is None:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self._done is not None:
            return
        self._headed = True
        length = self._headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most:
            self._refuse(length)

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if self._done is not None:
            return
        self._size += len(data)
        if self._size > self._most:
            self._refuse(f"at least {self._size}")
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._done is not None:
            return
        status = self._parser.get_status_code()
        if status < _FINAL:  # an interim answer: the final one follows
            self._headers, self._headed, self._head_size = {}, False, 0
            return
        self._keep = self._parser.should_keep_alive()  # known only here
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._done = Answered(status, self._headers, body)

    def _refuse(self, size: str) -> None:
        raise TooLarge(
            f"the answer of {self._server} has {size} bytes; the client takes at most {self._most} (max_answer_bytes)"
        )
