"""What is said of an address that a server cannot have."""

from __future__ import annotations

import errno
import socket

import pytest

from protocol.runtime.listening import refusal


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "another program uses this port; end that one, or choose another --metrics-port"),
        (OSError(errno.EADDRNOTAVAIL, "no"), "this machine does not have this address; with --metrics-host, 0.0.0.0 is all"),
        (OSError(errno.EAFNOSUPPORT, "no"), "this machine has no IPv6; with --metrics-host, 0.0.0.0 is all"),
        (OSError(errno.EACCES, "no"), "(below 1024 only root may); choose another --metrics-port, such as 8000"),
        (OSError(errno.EINVAL, "Invalid argument"), "Invalid argument; choose another --metrics-port"),
        (socket.gaierror(-2, "unknown"), "this name has no address here; give --metrics-host an address"),
    ],
)  # fmt: skip
def test_the_flags_that_name_the_address_are_said(error: OSError, says: str) -> None:
    assert says in refusal(error, "--metrics-port", "--metrics-host")
