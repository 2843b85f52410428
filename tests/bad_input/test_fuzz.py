"""A short run of the fuzzer; the long one is `make fuzz`."""

from __future__ import annotations

from tests.bad_input.__main__ import fuzz_codecs, fuzz_http


def test_the_codecs() -> None:
    assert fuzz_codecs(0, 0, 20_000) == []


async def test_http() -> None:
    assert await fuzz_http(0, 0, 500) == []
