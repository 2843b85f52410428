"""config.pbtxt (protobuf text format of `inference.ModelConfig`) ⇄ `ModelConfig`. Pure.

Text becomes a protobuf message, then protobuf's JSON form, then a `ModelConfig`: only `ModelConfig.from_json` interprets fields, so
that a file and a JSON document are treated alike. Only `ConfigError` is raised.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Final

from google.protobuf import json_format, text_format

from protocol.errors import ConfigError
from protocol.model_config import ModelConfig
from protocol.proto import message_class, pool

MAX_BYTES: Final = 1 << 20
"""Size of a configuration file. The longest in Triton's own tests has a few kilobytes; a megabyte takes seconds to parse."""

MAX_MESSAGE: Final = 400
"""Characters of the parser's message, which repeats the line at which it stopped."""

_STRING: Final = re.compile(r"""#[^\n]*|"(?:[^"\\\n]|\\.)*|'(?:[^'\\\n]|\\.)*""")
"""A comment, or a string up to its closing quote."""
_BAD_ESCAPE: Final = re.compile(r"""(?:^|[^\\])(?:\\\\)*(\\(?:[^abfnrtv\\?'"0-7xXuU]|[4-7][0-7]{2}))""")
"""An escape that protobuf does not define; its parser in Python only warns of it. Beyond \\377 an octal number is no byte."""
_POSITION: Final = re.compile(r"^\d+:\d+ : ")


def parse(text: str | bytes, source: str = "config.pbtxt", folder: str = "") -> ModelConfig:
    """The configuration of a text, with omitted fields left to completion.

    Args:
        text: the file's content; bytes are UTF-8, an initial byte order mark is skipped.
        source: its name in messages.
        folder: the model folder's name; a stated model name must equal it.

    Raises:
        ConfigError: with line and column if the text is not a model configuration, with the field's name if a field is not
            supported or breaks a rule.
    """
    document = document_of(text, source)
    try:
        return ModelConfig.from_json(_named(document, folder))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}") from None


def document_of(text: str | bytes, source: str = "config.pbtxt") -> dict[str, Any]:
    """The text as a JSON document, with the fields that it sets; nothing is checked but the syntax.

    Raises:
        ConfigError: with line and column if the text is not a model configuration.
    """
    message = message_class("inference.ModelConfig")()
    checked = _checked(text, source)
    _check_escapes(checked, source)
    try:
        text_format.Parse(checked, message, descriptor_pool=pool())
    except text_format.ParseError as error:
        raise ConfigError(f"{_where(error, source)}: {_shortened(str(error))}") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # pragma: no cover - no text is known to reach this in protobuf 5.26 to 7
        raise ConfigError(f"{source} is not a model configuration: {_shortened(str(error))}") from None
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _named(document: dict[str, Any], folder: str) -> dict[str, Any]:
    name = document.get("name", folder)
    if folder and name != folder:
        raise ConfigError(
            f"unexpected directory name '{folder}' for model '{name}', directory name must equal model name"
        )
    return document | {"name": name}


def _checked(text: str | bytes, source: str) -> str:
    try:
        raw = text.encode() if isinstance(text, str) else text
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"{source} has {len(raw)} bytes; a model configuration has at most {MAX_BYTES}")
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ConfigError(f"{source} is UTF-16 text: it begins with a UTF-16 byte order mark; save it as UTF-8")
        return raw.decode("utf-8-sig")
    except UnicodeError as error:
        raise ConfigError(f"{source} is not UTF-8 text: {error}") from None


def _check_escapes(text: str, source: str) -> None:
    for string in _STRING.finditer(text) if "\\" in text else ():
        if not string[0].startswith("#") and (bad := _BAD_ESCAPE.search(string[0])):
            line = text.count("\n", 0, string.start()) + 1
            raise ConfigError(
                f"{source}, line {line}: {bad[1]} in a string is no escape sequence; a backslash is written as \\\\"
            )


def _shortened(message: str) -> str:
    """The parser's message without the position, and without the end of a line that may be a megabyte long."""
    message = _POSITION.sub("", message)
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE // 2]} … {message[-MAX_MESSAGE // 2 :]}"


def _where(error: text_format.ParseError, source: str) -> str:
    line, column = error.GetLine(), error.GetColumn()
    return source if line is None else f"{source}, line {line}, column {column}"
