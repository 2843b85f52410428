"""`penstock infer -f`: a body from a file or standard input, in the encodings that editors write."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from penstock.cli import infer
from protocol.errors import InvalidArgument

BODY = '{"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["größer"]}]}'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "body.json"
    file.write_text(BODY, encoding=encoding)

    assert infer._from_body(file)["TEXT"].tolist() == ["größer".encode()]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BODY.encode())))

    assert infer._from_body(Path("-"))["TEXT"].tolist() == ["größer".encode()]


def test_an_endless_file_is_read_no_further_than_a_request_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "_MAX_BODY", 1000)

    with pytest.raises(InvalidArgument, match="--file /dev/zero has more than 1000 bytes"):
        infer._from_body(Path("/dev/zero"))


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"\x00" * 100])
def test_what_is_no_body_is_refused_with_its_file(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(body)

    with pytest.raises(InvalidArgument, match=f"--file {file}: failed to parse the request JSON buffer"):
        infer._from_body(file)
