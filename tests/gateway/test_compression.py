from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest.compression import choose, compress, decompress
from protocol.errors import CodecError, FleetError, TooLarge, Unsupported

LIMIT = 10_000


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from(["gzip", "deflate"]))
def test_what_was_compressed_comes_back(parts: list[bytes], encoding: str) -> None:
    assert decompress(compress(parts, encoding), encoding, LIMIT) == b"".join(parts)


def test_the_stdlib_reads_what_we_write() -> None:
    assert gzip.decompress(compress([b"abc"], "gzip")) == b"abc"
    assert zlib.decompress(compress([b"abc"], "deflate")) == b"abc"


def test_deflate_without_zlibs_header_is_read_too() -> None:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)

    assert decompress(engine.compress(b"abc") + engine.flush(), "deflate", LIMIT) == b"abc"


def test_identity_and_case() -> None:
    assert decompress(b"abc", "identity", LIMIT) == b"abc"
    assert decompress(gzip.compress(b"abc"), " GZIP ", LIMIT) == b"abc"


def test_a_bomb_is_refused_without_being_unpacked() -> None:
    bomb = gzip.compress(bytes(200_000_000), compresslevel=9)
    tracemalloc.start()
    with pytest.raises(TooLarge, match="send fewer rows"):
        decompress(bomb, "gzip", LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not gzip", "gzip"),
        (b"not deflate", "deflate"),
        (gzip.compress(b"abc", mtime=0)[:-9], "gzip"),
        (gzip.compress(b"abc", mtime=0) + b"more", "gzip"),
        (b"", "gzip"),
    ],
)
def test_what_is_no_such_stream_is_a_codec_error(body: bytes, encoding: str) -> None:
    with pytest.raises(CodecError):
        decompress(body, encoding, LIMIT)


def test_other_encodings_are_not_supported() -> None:
    with pytest.raises(Unsupported, match="Unsupported compression type 'br'"):
        decompress(b"x", "br", LIMIT)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "identity", "br", ""]))
def test_any_bytes_decompress_or_are_refused(body: bytes, encoding: str) -> None:
    with contextlib.suppress(FleetError):
        assert len(decompress(body, encoding, 100)) <= 300


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "deflate"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip;q=0, deflate;q=0", ""),
        ("gzip;q=0.5, identity", ""),
        ("*", "gzip"),
        ("*;q=0", ""),
        ("gzip;q=0, *", "deflate"),
        ("br", ""),
        ("identity", ""),
        ("", ""),
        ("gzip;q=nonsense", ""),
    ],
)
def test_the_highest_weight_wins_and_ties_go_to_the_first(accept: str, encoding: str) -> None:
    assert choose(accept) == encoding
