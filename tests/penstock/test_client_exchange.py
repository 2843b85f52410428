from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client.addresses import gateway_address
from penstock.client.exchange import MAX_HEAD, Answered, AnswerReader, Heads, NotHttp, tunnel_status
from protocol.errors import CodecError, FleetError, InvalidArgument, TooLarge

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi"


def reader(most: int = 1000) -> AnswerReader:
    return AnswerReader("http://h", most)


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_an_answer_in_pieces_and_the_next_on_the_same_connection(step: int) -> None:
    made = reader()
    for _ in range(2):
        found = [made.feed(OK[at : at + step]) for at in range(0, len(OK), step)]
        assert found[:-1] == [None] * (len(found) - 1)
        assert found[-1] == Answered(200, {"content-length": "2", "x-a": "b"}, b"hi")
        assert made.reusable


def test_chunks_are_joined() -> None:
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n"

    assert reader().feed(body) == Answered(200, {"transfer-encoding": "chunked"}, b"hi!")


def test_an_interim_answer_is_passed_over() -> None:
    made = reader()

    assert made.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + OK) == Answered(200, {"content-length": "2", "x-a": "b"}, b"hi")
    assert made.reusable


@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (OK, True),
        (OK + b"HTTP/1.1 200", False),
        (OK + b"garbage", False),
        (OK.replace(b"X-A: b", b"Connection: close"), False),
        (OK.replace(b"X-A: b", b"Connection: close") + b"more", False),
        (OK.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (b"HTTP/1.1 204 No\r\n\r\n", True),
    ],
)
def test_a_connection_is_kept_only_after_a_clean_answer(data: bytes, reusable: bool) -> None:
    made = reader()

    assert made.feed(data) is not None
    assert made.reusable is reusable


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    made = reader()
    assert made.feed(b"HTTP/1.1 200 OK\r\n\r\nhi") is None

    assert made.ended() == Answered(200, {}, b"hi")
    assert not made.reusable


def test_a_cut_answer_is_none() -> None:
    made = reader()
    assert made.feed(OK[:-1]) is None
    assert made.ended() is None
    assert reader().ended() is None


@pytest.mark.parametrize(
    "data", [b"-ERR unknown command\r\n", b"SSH-2.0-x\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"\x00"]
)
def test_another_protocol_is_said_to_be_one(data: bytes) -> None:
    with pytest.raises(NotHttp, match="http://h is not an HTTP server: its answer begins with"):
        reader().feed(data)


def test_another_protocol_after_an_upgrade() -> None:
    with pytest.raises(FleetError, match="not answered by a gateway"):
        reader().feed(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")


def test_an_answer_that_breaks_in_the_middle() -> None:
    with pytest.raises(CodecError, match="not valid HTTP"):
        reader().feed(OK.replace(b"X-A: b", b"Content-Length: 3"))


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + bytes(1001),
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001),
        b"HTTP/1.1 200 OK\r\nX: " + bytes([65]) * (MAX_HEAD + 1),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_kept(data: bytes) -> None:
    def feed_all() -> None:
        made = reader()
        for at in range(0, len(data), 1000):
            made.feed(data[at : at + 1000])

    with pytest.raises(TooLarge, match="http://h has"):
        feed_all()


@given(
    st.lists(st.binary(max_size=50) | st.sampled_from([OK, b"\r\n", b"HTTP/1.1 ", b"200 ", b"a: b\r\n"]), max_size=8)
)
def test_any_bytes_give_an_answer_or_one_of_our_errors(pieces: list[bytes]) -> None:
    made = reader()
    try:
        for piece in pieces:
            made.feed(piece)
        made.ended()
    except FleetError:
        pass


def test_heads() -> None:
    direct = Heads(gateway_address("http://h:8000/base"), None, {"authorization": "Bearer k"})
    proxied = Heads(gateway_address("http://h:8000/base"), gateway_address("http://u:p@proxy:1"), {})
    tunnelled = Heads(gateway_address("https://h/base"), gateway_address("http://u:p@proxy:1"), {})

    assert direct.request("POST", "/v2", {"A": "b"}, 0) == (
        b"POST /base/v2 HTTP/1.1\r\nhost: h:8000\r\nauthorization: Bearer k\r\nA: b\r\ncontent-length: 0\r\n\r\n"
    )
    assert proxied.request("GET", "/v2", {}, 0) == (
        b"GET http://h:8000/base/v2 HTTP/1.1\r\nhost: h:8000\r\nproxy-authorization: Basic dTpw\r\n\r\n"
    )
    assert tunnelled.request("GET", "/v2", {}, 0) == b"GET /base/v2 HTTP/1.1\r\nhost: h\r\n\r\n"


@pytest.mark.parametrize("value", ["a\r\nb: c", "ü", "\x00"])
def test_a_header_holds_no_other_line(value: str) -> None:
    with pytest.raises(InvalidArgument, match="Idempotency-Key must be printable ASCII"):
        Heads(gateway_address("http://h"), None, {}).request("GET", "/", {"Idempotency-Key": value}, 0)


def test_a_proxys_answer() -> None:
    assert tunnel_status(b"HTTP/1.1 200 Connection established\r\n\r") is None
    assert tunnel_status(b"HTTP/1.1 200 Connection established\r\n\r\n") == 200
    assert tunnel_status(b"HTTP/1.1 407 X\r\na: b\r\n\r\n") == 407
    for data in (b"hello\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", bytes(MAX_HEAD + 1)):
        with pytest.raises(NotHttp, match="not an HTTP proxy"):
            tunnel_status(data)
