from __future__ import annotations

import pytest

from protocol.urls import authority, server_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("models.example.org", "http://models.example.org:8000"),
        ("::1", "http://[::1]:8000"),
        ("[::1]", "http://[::1]:8000"),
        ("2001:db8:0::7", "http://[2001:db8::7]:8000"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("0:0:0:0:0:0:0:0", "http://[::1]:8000"),
        ("", "http://127.0.0.1:8000"),
    ],
)
def test_the_url_of_a_host_can_be_called(host: str, url: str) -> None:
    assert server_url("http", host, 8000) == url


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]:80"), ("127.0.0.1", "127.0.0.1:80"), ("name", "name:80")])
def test_an_authority_has_brackets_around_ipv6(host: str, shown: str) -> None:
    assert authority(host, 80) == shown
