"""TLS of a gRPC server."""

from __future__ import annotations

import ssl

from protocol.errors import ConfigError


def tls_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """A context for HTTP/2.

    Args:
        certificate, key: PEM files.
        client_ca: PEM file with the authorities whose client certificates are accepted; "" asks for none.

    Raises:
        ConfigError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # also of ssl
        raise ConfigError(f"TLS certificate '{certificate}' and key '{key}' cannot be used: {error}") from None
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise ConfigError(f"client CA '{client_ca}' cannot be used: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
