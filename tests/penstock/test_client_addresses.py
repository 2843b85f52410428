from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client.addresses import Address, gateway_address, proxy_for
from protocol.errors import InvalidArgument


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("http://localhost:8000", "localhost", 8000, "localhost:8000"),
        ("localhost:8000", "localhost", 8000, "localhost:8000"),
        ("localhost", "localhost", 80, "localhost"),
        ("127.0.0.1:9", "127.0.0.1", 9, "127.0.0.1:9"),
        ("[::1]:8000", "::1", 8000, "[::1]:8000"),
        ("http://[::1]", "::1", 80, "[::1]"),
        ("https://models.example", "models.example", 443, "models.example"),
        ("https://models.example:8443/", "models.example", 8443, "models.example:8443"),
        ("http://bücher.example", "xn--bcher-kva.example", 80, "xn--bcher-kva.example"),
    ],
)
def test_urls_of_gateways(url: str, host: str, port: int, authority: str) -> None:
    address = gateway_address(url)

    assert (address.host, address.port, address.authority) == (host, port, authority)


def test_a_path_stands_before_every_requests_and_credentials_are_not_shown() -> None:
    address = gateway_address("https://me:secret@models.example/fleet/")

    assert (address.path, address.url) == ("/fleet", "https://models.example/fleet")
    assert address.credentials == "Basic bWU6c2VjcmV0"


@pytest.mark.parametrize(
    "url",
    [
        "", "nonsense", "http://", "http://[::1", "http://127.0.0.1:99999", "ftp://127.0.0.1", "http://no such host",
        "http://a\r\nb", "http://h:0", "http://h?x=1", "http://h#x", "http://h:8x", "::", "http://a_b\x00", "http://exa%20mple",
        "http://me:secret@h:99999",
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidArgument, match="--url") as caught:
        gateway_address(url)

    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://h:80/{text}"):
        try:
            address = gateway_address(url)
        except InvalidArgument:
            continue
        head = address.authority + address.path
        assert head.isascii()
        assert head.isprintable()
        assert " " not in head


PROXIES = {"http": "http://user:word@proxy:3128", "https": "proxy:3129", "all": "http://other:1"}


@pytest.mark.parametrize(
    ("url", "proxies", "bypass", "proxy"),
    [
        ("http://h", PROXIES, False, "http://proxy:3128"),
        ("https://h", PROXIES, False, "http://proxy:3129"),
        ("http://h", {"all": "http://other:1"}, False, "http://other:1"),
        ("http://h", PROXIES, True, None),
        ("http://h", {}, False, None),
        ("http://localhost:8000", PROXIES, False, None),
        ("http://127.1.2.3", PROXIES, False, None),
        ("http://[::1]:8000", PROXIES, False, None),
    ],
)
def test_a_proxy_stands_before_other_machines(
    url: str, proxies: dict[str, str], bypass: bool, proxy: str | None
) -> None:
    found = proxy_for(gateway_address(url), proxies, bypass)

    assert (found.url if isinstance(found, Address) else None) == proxy


@pytest.mark.parametrize("proxy", ["socks5://proxy:1", "https://proxy:1", "http://", "http://p:x"])
def test_a_proxy_that_cannot_be_used_is_named(proxy: str) -> None:
    with pytest.raises(InvalidArgument, match="no_proxy=h goes past it"):
        proxy_for(gateway_address("http://h"), {"http": proxy}, bypass=False)
