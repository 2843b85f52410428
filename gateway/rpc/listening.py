"""The socket and the TLS of a gRPC server."""

from __future__ import annotations

import socket
import ssl

from gateway.rest import pem
from gateway.rest.listening import bind


def listener_of(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket.

    Args:
        host, port: its address; port 0 takes a free one.
        shared: with the other processes of a gateway.

    Raises:
        ConfigError: the address is taken or invalid.
    """
    return bind(host, port, shared=shared, option="--grpc-port")


def tls_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext | None:
    """A context for HTTP/2; None without a certificate.

    Args:
        certificate, key: PEM files; "" for no TLS.
        client_ca: PEM file with the authorities whose client certificates are accepted; "" asks for none.

    Raises:
        ConfigError: a file cannot be used.
    """
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # also of ssl
        raise pem.refusal(error, certificate, key) from None
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise pem.refusal(error, certificate, key, client_ca) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
