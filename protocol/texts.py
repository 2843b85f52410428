"""Texts from callers and models, made safe to answer, store, log and show. Pure."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 8192
"""Characters of an error's text; of a longer text the beginning and the end are kept."""
_OBEYED: Final = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Control characters, line separators, and characters that change the direction of text."""
_IN_LINE: Final = {code: repr(chr(code))[1:-1] for code in _OBEYED}
_IN_LINES: Final = {code: shown for code, shown in _IN_LINE.items() if chr(code) not in "\n\t"}


def shortened(text: str, most: int = MAX_TEXT) -> str:
    """The text, without its middle if it is longer than `most`, and with escapes for what UTF-8 cannot encode."""
    if len(text) > most:
        tail = most // 4
        text = f"{text[: most - tail]} … ({len(text) - most} of {len(text)} characters left out) … {text[-tail:]}"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def first_line(text: str) -> str:
    """The text without the lines after its first, which are to be pasted."""
    return text.partition("\n")[0].rstrip(":")


def visible(text: str, *, lines: bool = False) -> str:
    """The text with every character that a terminal interprets escaped; with `lines` it keeps line ends and tabs."""
    return text if text.isprintable() else text.translate(_IN_LINES if lines else _IN_LINE)
