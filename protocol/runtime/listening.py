"""Why a server cannot listen, and what to do."""

from __future__ import annotations

import errno
import socket


def refusal(error: OSError, port: str, host: str) -> str:
    """The end of a sentence about an address that cannot be listened on.

    Args:
        error: the system's.
        port, host: the options that name the address.
    """
    if isinstance(error, socket.gaierror):
        return f"this name has no address here; give {host} an address: 127.0.0.1 is for callers on this machine"
    if error.errno == errno.EADDRINUSE:
        return f"another program uses this port; end that one, or choose another {port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine does not have this address; with {host}, 0.0.0.0 is all that it has, 127.0.0.1 is for its own callers"
    if error.errno == errno.EAFNOSUPPORT:
        return f"this machine has no IPv6; with {host}, 0.0.0.0 is all that it has, 127.0.0.1 is for its own callers"
    if error.errno == errno.EACCES:
        return f"this user may not listen there (below 1024 only root may); choose another {port}, such as 8000"
    return f"{error.strerror or error}; choose another {port}"
