"""Dead letters for people and for machines. Pure."""

from __future__ import annotations

import datetime as dt
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from penstock.dead.letters import ReadLetter, name_bytes
from protocol.codec import decode_request
from protocol.dead_letter import CONNECT
from protocol.errors import FleetError
from protocol.naming import Names
from protocol.tensors import Buffer, Tensor

VALUES: Final = 8
"""Elements of an input that are shown."""
ELEMENT: Final = 80
"""Bytes of one BYTES element that are shown."""
HEX_BYTES: Final = 256
HEADER: Final = 200


def summary(letter: ReadLetter, names: Names) -> dict[str, Any]:
    """A letter without its value, for JSON."""
    source = letter.source
    return {
        "id": letter.id, "principal": letter.principal, "model": letter.model, "version": letter.version(names),
        "reason": letter.reason, "error": letter.error, "signal": letter.signal or None, "attempts": letter.attempts,
        "worker": letter.worker or None, "buried": moment(letter.dead_lettered_at), "bytes": letter.size, "place": letter.place,
        "source": {"topic": letter.topic, "partition": source[0], "offset": source[1]} if source else None,
    }  # fmt: skip


def whole(letter: ReadLetter, value: Buffer, names: Names) -> dict[str, Any]:
    """A letter with its value, for JSON: evidence, headers, and inputs or first bytes."""
    return summary(letter, names) | {
        "model_digest": letter.model_digest,
        "batch_mates": list(letter.batch_ids),
        "evidence": letter.evidence,
        "key": None if letter.key is None else shown(letter.key),
        "headers": [[named(name), None if content is None else shown(content)] for name, content in letter.original],
        "request": request(letter, value, names),
    }


def request(letter: ReadLetter, value: Buffer, names: Names) -> dict[str, Any]:
    """The value as a request; if it is not one, the error and its first bytes."""
    try:
        decoded = decode_request(
            value, letter.original, model=letter.model, version=letter.version(names) or "", default_id=letter.id,
            timestamp=letter.dead_lettered_at,
        )  # fmt: skip
    except FleetError as exc:
        return {"problem": exc.message, "first_bytes": bytes(value[:HEX_BYTES]).hex(" ")}
    return {
        "label": decoded.label,
        "parameters": decoded.parameters,
        "outputs": list(decoded.outputs),
        "inputs": [tensor(each) for each in decoded.inputs],
    }


def tensor(each: Tensor) -> dict[str, Any]:
    """Name, datatype, shape and first values; for floats also how many are not finite."""
    shown_tensor: dict[str, Any] = {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
    try:
        array = each.array().reshape(-1)
    except FleetError as exc:
        return shown_tensor | {"problem": exc.message}
    if array.dtype.kind == "f":
        shown_tensor["not_finite"] = int(array.size - np.count_nonzero(np.isfinite(array)))
    return shown_tensor | {
        "first_values": [plain(item) for item in array[:VALUES].tolist()],
        "elements": int(array.size),
    }


def plain(item: object) -> object:
    """An element as JSON."""
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)
    return shown(item[:ELEMENT]) if isinstance(item, bytes) else item


def shown(content: bytes) -> str:
    """Bytes as text if they are printable, else in hexadecimal."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text.isprintable() and (text or not content) else "0x" + content.hex()


def named(name: str) -> str:
    """A header's name for JSON: bytes that are not UTF-8 are escaped in hexadecimal."""
    return name_bytes(name).decode(errors="backslashreplace")


def moment(seconds: float) -> str:
    """A time as ISO text: UTC, to the second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def table(letters: Sequence[ReadLetter], redriven: Mapping[str, str], width: int) -> Iterator[str]:
    """One line per letter.

    Args:
        letters: the letters to show.
        redriven: the id under which each request was last sent again, by `root_ref`.
        width: columns of the terminal; errors are cut to it.
    """
    columns = [("BURIED", "MODEL", "REASON", "ID", "ERROR")]
    for letter in letters:
        error = ": ".join(filter(None, (letter.signal, letter.error)))
        if sent := redriven.get(letter.root_ref):
            error = f"[sent again as {sent}] {error}"
        columns.append(
            (moment(letter.dead_lettered_at), clean(letter.model), letter.reason, clean(letter.id), clean(error))
        )
    widths = [max(len(row[index]) for row in columns) for index in range(4)]
    for row in columns:
        line = "  ".join(f"{cell:{wide}}" for cell, wide in zip(row, widths, strict=False))
        yield (line + "  " + row[4])[: max(width, len(line))].rstrip()


def page(facts: dict[str, Any]) -> Iterator[str]:
    """The facts of `whole` as lines for people."""
    yield f"{clean(facts['id'])}  {clean(facts['model'])} version {facts['version'] or '?'}  {facts['reason']}"
    if facts["error"]:
        yield textwrap.indent(printable(facts["error"]), "  ")
    yield ""
    source = facts["source"]
    lines = {
        "signal": facts["signal"], "attempts": facts["attempts"], "worker": facts["worker"], "buried": facts["buried"],
        "principal": facts["principal"], "model digest": facts["model_digest"], "dead record": facts["place"],
        "original record": f"{source['topic']}/{source['partition']}/{source['offset']}" if source else None,
        "batch mates": ", ".join(facts["batch_mates"]), "key": facts["key"], "bytes": facts["bytes"],
    }  # fmt: skip
    for name, content in lines.items():
        if content is not None and content != "":
            yield f"  {name:16} {clean(str(content))}"
    yield "  headers"
    for name, content in facts["headers"]:
        yield f"    {clean(name)} = {'(null)' if content is None else clean(content)[:HEADER]}"
    if other := {name: text for name, text in facts["evidence"].items() if name.startswith(CONNECT)}:
        yield "  Kafka Connect's headers"
        for name, text in other.items():
            yield f"    {clean(name)} = {clean(text)[:HEADER]}"
    yield from _request(facts["request"])


def _request(facts: dict[str, Any]) -> Iterator[str]:
    if "problem" in facts:
        yield f"  not a request: {clean(facts['problem'])}"
        raw = bytes.fromhex(facts["first_bytes"])
        for start in range(0, len(raw), 16):
            row = raw[start : start + 16]
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            yield f"    {start:04x}  {row.hex(' '):47}  {text}"
        return
    yield "  inputs"
    for each in facts["inputs"]:
        values = each.get("problem") or ", ".join(map(str, each["first_values"]))
        more = ", …" if each.get("elements", 0) > VALUES else ""
        bad = f"  ({each['not_finite']} not finite)" if each.get("not_finite") else ""
        yield f"    {clean(each['name'])} {each['datatype']}{each['shape']} = {clean(values)}{more}{bad}"
    for name in ("label", "parameters", "outputs"):
        if facts[name]:
            yield f"  {name:16} {clean(str(facts[name]))}"


def clean(text: str) -> str:
    """One line of untrusted text without control characters."""
    return "".join(char if char.isprintable() else "·" for char in text)


def printable(text: str) -> str:
    """Several lines of untrusted text without control characters."""
    return "\n".join(clean(line) for line in text.splitlines())
