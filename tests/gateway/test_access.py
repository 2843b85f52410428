from __future__ import annotations

import pytest

from gateway.rest.access import Access
from gateway.rest.errors import STATUS, error_headers
from protocol.errors import Code, Exhausted, FleetError, Unavailable, Unsupported


@pytest.mark.parametrize(
    "fields",
    [
        {b"x-api-key": b"secret"},
        {b"authorization": b"Bearer secret"},
        {b"authorization": b"bearer  secret "},
    ],
)
def test_the_key_opens(fields: dict[bytes, bytes]) -> None:
    assert Access("secret").principal(fields) == "key"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"x-api-key": b"Secret"},
        {b"x-api-key": b""},
        {b"authorization": b"Basic secret"},
        {b"authorization": b"secret"},
        {b"authorization": b"Bearer"},
        {b"x-api-key": b"wrong", b"authorization": b"Bearer secret"},
        {b"x-api-key": b"\xff\xfe"},
    ],
)
def test_nothing_else_does(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(FleetError) as caught:
        Access("secret").principal(fields)
    assert caught.value.code is Code.UNAUTHENTICATED
    assert "Secret" not in caught.value.message


def test_without_a_key_everybody_is_anonymous() -> None:
    assert Access("").open
    assert Access("").principal({b"x-api-key": b"whatever"}) == "-"


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)


def test_callers_are_told_when_to_come_back_and_what_to_send() -> None:
    def told(error: FleetError) -> list[tuple[str, str]]:
        code, *rest = error_headers(error)
        assert code == ("penstock-error", error.code)
        return rest

    assert told(Exhausted("x", retry_after=2.2)) == [("retry-after", "3")]
    assert told(Unavailable("x")) == [("retry-after", "1")]
    assert told(FleetError("x", code=Code.UNAUTHENTICATED)) == [("www-authenticate", 'Bearer realm="penstock"')]
    assert told(Unsupported("Unsupported compression type 'br'")) == [("accept-encoding", "gzip, deflate")]
    assert told(FleetError("x")) == []
