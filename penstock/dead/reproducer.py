"""A reproducer: a folder with one dead record, for the person who fixes the model.

request.bin       the record's value, byte for byte
dead-letter.json  its headers, key and evidence
reproduce.py      runs it: python reproduce.py --model-repository DIR
models/           the model version, if requested
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import shutil
from pathlib import Path
from typing import Any, Final

import orjson

from penstock.dead.letters import ReadLetter, name_bytes
from protocol.errors import ConfigError, NotFound
from workers.repository.folders import CONFIG_FILE
from workers.repository.version import ModelVersion

VALUE: Final = "request.bin"
LETTER: Final = "dead-letter.json"
SCRIPT: Final = "reproduce.py"
MODELS: Final = "models"
_FORM: Final = 2
"""Form 1 had header names as text; in 2 they are base64, like values, because both may be any bytes."""
_MAX_LETTER: Final = 8 * 1024 * 1024
_MAX_VALUE: Final = 64 * 1024 * 1024
_SCRIPT: Final = '''\
"""Runs the request of this folder against its model, in a process that may die; needs Penstock with the model's backend.

    python reproduce.py --model-repository DIR     (without it: the folder models/ beside this file)

Exits with 0 if it crashed, hung or failed again, and with 1 if it succeeded.
"""

import sys
from pathlib import Path

from penstock.cli.dead import command

command(["reproduce", "--from", str(Path(__file__).parent), *sys.argv[1:]], prog_name="penstock dead")
'''


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A record to run.

    Attributes:
        letter: its dead letter.
        version: the model version, decimal.
        value: the record's value.
    """

    letter: ReadLetter
    version: str
    value: bytes


def write_case(folder: Path, case: Case, model: ModelVersion | None = None) -> None:
    """Write the folder, with a copy of the model version if one is given.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"'{folder}' is not empty; name a new folder")
        (folder / VALUE).write_bytes(case.value)
        (folder / LETTER).write_bytes(orjson.dumps(_plain(case), option=orjson.OPT_INDENT_2))
        (folder / SCRIPT).write_text(_SCRIPT)
        if model is not None:
            _copy(model, folder / MODELS / model.model)
    except OSError as error:
        raise ConfigError(f"'{folder}' cannot be written: {error.strerror}") from None


def _copy(model: ModelVersion, to: Path) -> None:
    to.mkdir(parents=True)
    if (model.folder / CONFIG_FILE).is_file():
        shutil.copy2(model.folder / CONFIG_FILE, to)
    version = model.folder / str(model.version)
    shutil.copytree(version, to / version.name, ignore=shutil.ignore_patterns("__pycache__"))


def load_case(folder: Path) -> Case:
    """What `write_case` wrote.

    Raises:
        NotFound: it is not such a folder.
        ConfigError: one of its files is damaged.
    """
    try:
        raw, value = _bounded(folder / LETTER, _MAX_LETTER), _bounded(folder / VALUE, _MAX_VALUE)
    except OSError as error:
        raise NotFound(f"'{folder}' holds no dead letter: {error.filename}: {error.strerror}") from None
    try:
        document = orjson.loads(raw)
        form = document["form"]
        if form not in (1, _FORM):
            raise ValueError(f"form {form}")
        letter = ReadLetter(
            original=tuple((_name(name, form), _bytes(content)) for name, content in document["headers"]),
            evidence={str(name): str(text) for name, text in document["evidence"].items()},
            model=str(document["model"]), partition=int(document["partition"]), offset=int(document["offset"]),
            dead_lettered_at=float(document["buried"]), size=len(value), key=_bytes(document["key"]),
        )  # fmt: skip
        return Case(letter, str(document["version"]), value)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise ConfigError(f"'{folder / LETTER}' is damaged: {error!r}") from None


def _bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


def _plain(case: Case) -> dict[str, Any]:
    letter = case.letter
    return {
        "form": _FORM, "model": letter.model, "version": case.version, "id": letter.id, "reason": letter.reason,
        "error": letter.error, "partition": letter.partition, "offset": letter.offset, "buried": letter.dead_lettered_at,
        "key": _text(letter.key), "headers": [[_text(name_bytes(name)), _text(content)] for name, content in letter.original],
        "evidence": letter.evidence,
    }  # fmt: skip


def _name(stored: str, form: int) -> str:
    return str(stored) if form == 1 else base64.b64decode(stored, validate=True).decode("utf-8", "surrogateescape")


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
