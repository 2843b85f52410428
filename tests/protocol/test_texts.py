from __future__ import annotations

import subprocess
import sys

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import decode_reply, encode_reply
from protocol.errors import Code, FleetError, InvalidArgument, described
from protocol.messages import Failure, InferReply
from protocol.texts import MAX_TEXT, shortened, visible


def test_a_long_text_keeps_its_beginning_and_its_end_and_says_how_long_it_was() -> None:
    text = "begin" + "x" * 60_000_000 + "end"

    short = shortened(text)

    assert len(short) < MAX_TEXT + 100
    assert short.startswith("beginxxx")
    assert short.endswith("xxxend")
    assert "of 60000008 characters left out" in short
    assert shortened("x" * MAX_TEXT) == "x" * MAX_TEXT


@given(st.text(alphabet=st.characters(), max_size=60))
def test_every_text_can_be_sent_and_shown(text: str) -> None:
    text += "\udcff"

    assert orjson.loads(orjson.dumps(shortened(text))) == shortened(text)
    assert all(character >= " " or character in "\n\t" for character in visible(shortened(text), lines=True))
    assert len(visible(shortened(text)).splitlines()) <= 1


@pytest.mark.parametrize("text", ["plain", "", "é ü 模型", "a 'quoted' \\ text"])
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert visible(shortened(text)) == text


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("why"), "ValueError: why"),
        (ValueError(), "ValueError"),
        (Silent(), "Silent: (its text cannot be made: RuntimeError)"),
        (OSError("\udcff"), "OSError: \\udcff"),
        (InvalidArgument("said"), "said"),
    ],
)
def test_any_exception_can_be_described(error: BaseException, text: str) -> None:
    assert described(error) == text


def test_no_error_text_is_longer_than_the_limit_wherever_it_is_made() -> None:
    huge = "x" * 60_000_000
    texts = [
        FleetError(huge).message,
        str(InvalidArgument(huge)),
        described(ValueError(huge)),
        described(type(huge[:100_000], (Exception,), {})()),
        Failure(Code.MODEL_FAILED, huge).message,
        Failure(Code.MODEL_FAILED, 7).message,  # type: ignore[arg-type]  # models return anything
    ]
    reply = decode_reply(encode_reply(InferReply("m", "1", failure=Failure(Code.MODEL_FAILED, huge + "\udcff"))))

    assert max(map(len, texts)) < MAX_TEXT + 100
    assert reply.failure is not None
    assert len(reply.failure.message) < MAX_TEXT + 100


_ENTRIES = """
import logging, sys, structlog
from protocol.runtime.logs import configure
configure(sys.argv[1])
log = structlog.get_logger("gateway")
bad = chr(27) + "[31m" + chr(0) + chr(0x9b) + "\\n2026-01-01T00:00:00Z [info] forged" + chr(0x202e) + chr(0x2028)
log.info("event " + bad, text=bad, texts=[bad], map={bad: bad}, raw=bad.encode(), error=ValueError(bad))
logging.getLogger("library").warning("of a library: %s", bad)
try:
    raise ValueError(bad + "y" * 60_000_000)
except ValueError:
    log.exception("failed")
log.info("x" * 60_000_000, error="x" * 60_000_000, errors=["x" * 60_000_000])
"""


@pytest.mark.parametrize("style", ["human", "json"])
def test_nothing_in_a_log_forges_entries_moves_the_cursor_or_fills_the_disk(style: str) -> None:
    ran = subprocess.run([sys.executable, "-c", _ENTRIES, style], check=True, capture_output=True)
    text = ran.stderr.decode()

    assert len(text) < 200_000
    assert all(character in "\n" or character.isprintable() or character == "\xa0" for character in text), text[:2000]
    lines = text.splitlines()
    entries = lines if style == "json" else [line for line in lines if not line.startswith("    ")]
    assert len(entries) == 4
    assert not any(line.startswith("2026-01-01") for line in lines)
    if style == "json":
        assert [orjson.loads(line)["level"] for line in entries] == ["info", "warning", "error", "info"]
