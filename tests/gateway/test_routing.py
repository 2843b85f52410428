"""URLs of infer requests: which model they name, and how many are cached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.budget import Budget
from gateway.rest.routing import MAX_BYTES, MAX_URL, RouteCache, parse_route


@pytest.mark.parametrize(
    ("url", "route"),
    [
        (b"/v2/models/m/infer", ("m", "", "infer")),
        (b"/v2/models/m/generate", ("m", "", "generate")),
        (b"/v2/models/m/versions/1/generate_stream", ("m", "1", "generate_stream")),
        (b"/v2/models/m/generate_streams", None),
        (b"/v2/models/m/versions/7/infer?x=1", ("m", "7", "infer")),
        (b"http://h/v2/models/a%20b/infer", ("a b", "", "infer")),
        (b"/v2/models/m/versions/x/infer", None),
        (b"/v2/models/%ff/infer", None),
        (b"/v2/models/m/versions/%b/infer" % (b"9" * 5000), None),
        (b"/v2/models//infer", None),
        (b"*", None),
    ],
)
def test_urls(url: bytes, route: tuple[str, str, str] | None) -> None:
    cache = RouteCache(Budget(10**6), lambda name: True)

    assert parse_route(url) == cache.find(url) == cache.find(url) == route


def test_only_short_urls_of_models_that_exist_are_remembered() -> None:
    budget = Budget(10**6)
    cache = RouteCache(budget, lambda name: name == "m")
    for url in (
        b"/v2/models/x/infer",
        b"/v2/models/m/infer?" + b"y" * 300,
        b"/v2/models/%b/infer" % (b"m" * 30_000),
        b"/",
    ):
        cache.find(url)
    assert budget.used == 0

    cache.find(b"/v2/models/m/infer")
    assert 0 < budget.used < 1000


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_what_is_remembered_is_bounded_in_bytes_and_drawn_from_the_budget(tails: list[bytes]) -> None:
    budget = Budget(MAX_BYTES + 100)
    cache = RouteCache(budget, lambda name: True)
    for number in range(1500):
        cache.find(b"/v2/models/m/infer?%d" % number)
        for tail in tails[:2]:
            cache.find(b"/v2/models/m/infer?%d" % number + tail.hex().encode())

    assert 0 < budget.used <= MAX_BYTES
    assert sum(len(url) for url in cache._routes) <= budget.used
    assert max(map(len, cache._routes)) <= MAX_URL


def test_without_room_nothing_is_remembered_and_everything_is_found() -> None:
    cache = RouteCache(Budget(0), lambda name: True)

    assert cache.find(b"/v2/models/m/infer") == ("m", "", "infer")
    assert not cache._routes
