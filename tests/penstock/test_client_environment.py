"""What the clients say of a connection that fails, and of a server that is no gateway."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from pathlib import Path

import pytest

from penstock.client import AsyncClient, Client, requests
from penstock.client.environment import Route
from penstock.client.exchange import tls_advice
from protocol.errors import FleetError, InvalidArgument


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.verify_code, error.verify_message = 18, "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the name 'model.example' has no address: name or service not known"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to host"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "connection refused: no server listens there; penstock serve starts one"),  # noqa: E501
        (TimeoutError(), "no connection in time"),
        (untrusted(), "its certificate is not trusted: self-signed certificate; SSL_CERT_FILE names a PEM file of authorities to trust"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_failed_connection_is_told_in_words(error: OSError, says: str) -> None:
    assert Route("http://model.example:8000").failed(error) == f"http://model.example:8000 cannot be reached: {says}"


def test_a_file_of_authorities_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))

    assert f"SSL_CERT_FILE names '{tmp_path / 'gone.pem'}', which does not exist" in Route("https://a:1").failed(
        untrusted()
    )


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_fails_is_named_with_the_way_past_it(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://squid:3128")
    route = Route("http://model.example:8000")

    assert route.failed(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")) == (
        "http://model.example:8000 cannot be reached: the proxy http://squid:3128, which the environment names: connection "
        "refused; no_proxy=model.example goes past it"
    )
    assert "the name 'squid' has no address" in route.failed(socket.gaierror(-2, "Name or service not known"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://squid:3128")

    assert Route(f"http://{host}:8000").proxy is None
    assert Route(f"https://{host}:8000").proxy is None


@pytest.mark.parametrize(("body", "end"), [(b"", "is it one?"), (b"<html>\n", "is it one? It says: '<html>'")])
def test_a_server_that_is_no_gateway_is_named_with_its_status(body: bytes, end: str) -> None:
    with pytest.raises(FleetError) as caught:
        requests.check(404, {}, body, "http://model.example")

    assert (
        caught.value.message == f"http://model.example answers with HTTP status 404, and not as a gateway does; {end}"
    )


@pytest.mark.parametrize("name", ["", "../add", "a/b"])
def test_a_name_that_no_model_can_have_is_not_asked_for(name: str) -> None:
    with pytest.raises(InvalidArgument, match="a model's name is not empty and has no slash"):
        requests.model_path(name)
    with pytest.raises(InvalidArgument, match="a model's name"):
        requests.load(name, {})


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_localhost_is_this_machine_at_both_its_addresses(address: str) -> None:
    """Whatever the resolver says: it may know one of them, or none, as in a container without /etc/hosts."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, address, 0)
    except OSError:
        pytest.skip(f"this machine has no {address}")
    url = f"http://localhost:{server.sockets[0].getsockname()[1]}"
    async with server, AsyncClient(url, retries=0) as client:
        assert await client.ready()
        with Client(url, retries=0) as blocking:
            assert await asyncio.to_thread(blocking.ready)


def test_other_names_are_the_resolvers() -> None:
    assert Route("http://localhost:8000").hosts == ("localhost", "127.0.0.1", "::1")
    assert Route("http://model.example").hosts == ("model.example",)


def test_a_certificate_of_another_name_is_no_matter_of_authorities() -> None:
    error = untrusted()
    error.verify_code, error.verify_message = 62, "Hostname mismatch, certificate is not valid for 'a'."

    assert (
        Route("https://a:1").failed(error).endswith("not trusted: Hostname mismatch, certificate is not valid for 'a'")
    )


@pytest.mark.parametrize(
    ("url", "advice"), [("http://a:1", "; if it speaks TLS, its URL begins with https://"), ("https://a:1", "")]
)
def test_a_server_of_tls_that_was_called_without_it(url: str, advice: str) -> None:
    assert tls_advice(url) == advice
