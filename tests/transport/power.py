"""A power loss, simulated from what a program really wrote and synced: its system calls, as strace saw them.

A write counts as durable once an fsync or fdatasync of its file, begun after the write had ended, has returned. The image of a
moment holds each file as it was durable then, plus, if requested, an arbitrary part of what was not: a disk may keep any of it.
Names of files, created or removed, count as durable. Memory-mapped files (SQLite's shared-memory index, which it rebuilds) are
left out.
"""

from __future__ import annotations

import dataclasses
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CALLS = "openat,close,write,pwrite64,fsync,fdatasync,ftruncate,unlink"
SECTOR = 512
_LINE = re.compile(r"^(\d+) +(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+)")
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(.*)$")
_UNFINISHED = " <unfinished ...>"
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A system call that returned: `begun` and `ended` count the trace's lines."""

    name: str
    arguments: str
    result: int
    begun: int
    ended: int


class File:
    """One file's content as the system shows it, the durable part, and the writes in between."""

    def __init__(self) -> None:
        self.shown = bytearray()
        self.writes: list[tuple[int, int, bytes]] = []  # line at which it had ended, offset (-1: truncation), bytes
        self.durable = bytearray()

    def write(self, line: int, offset: int, data: bytes) -> None:
        self.writes.append((line, offset, data))

    def truncate(self, line: int, size: int) -> None:
        self.writes.append((line, -1, size.to_bytes(8)))

    def sync(self, begun: int) -> None:
        done = [write for write in self.writes if write[0] < begun]
        self.writes = self.writes[len(done) :]
        for _, offset, data in done:
            _apply(self.durable, offset, data)

    def after_a_loss(self, chance: random.Random | None) -> bytes:
        content = bytearray(self.durable)
        for _, offset, data in self.writes if chance is not None else ():
            for start in range(0, len(data), SECTOR) if offset >= 0 else (0,):
                if chance is not None and chance.random() < 0.5:
                    _apply(content, offset + start if offset >= 0 else -1, data[start : start + SECTOR])
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes) -> None:
    if offset < 0:
        size = int.from_bytes(data)
        del content[size:]
        content.extend(bytes(size - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


Image = Mapping[str, bytes]


def traced(program: str, arguments: Sequence[str], trace: Path) -> bytes:
    """Run a Python program under strace; returns what it printed."""
    line = ["strace", "-f", "-xx", "-s", "200000", "-e", f"trace={CALLS}", "-o", str(trace)]
    done = subprocess.run(
        [*line, sys.executable, "-c", program, *arguments], capture_output=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def losses(trace: Path, folder: Path, chance: random.Random | None) -> Iterator[tuple[bytes, Image]]:
    """At each line that the program printed: the line, and the folder's files if the power had failed then."""
    files: dict[str, File] = {}
    names: dict[int, str] = {}
    for call in calls(trace):
        number = int(re.match(r"-?\d+", call.arguments).group()) if call.arguments[0].isdigit() else -1  # type: ignore[union-attr]
        name = names.get(number)
        if call.name == "openat" and call.result >= 0:
            path = Path(_text(call.arguments).decode())
            if path.parent == folder and not path.name.endswith("-shm"):
                names[call.result] = path.name
                files.setdefault(path.name, File())
            else:
                names.pop(call.result, None)
        elif call.name == "unlink" and call.result == 0:
            files.pop(Path(_text(call.arguments).decode()).name, None)
        elif call.name == "write" and number == 1:
            yield _text(call.arguments), {name: file.after_a_loss(chance) for name, file in files.items()}
        elif name is not None:
            _note(files[name], call)
            if call.name == "close":
                del names[number]


def _note(file: File, call: Call) -> None:
    last = call.arguments.rsplit(", ", 1)[-1]
    if call.name == "pwrite64":
        file.write(call.ended, int(last), _text(call.arguments)[: call.result])
    elif call.name == "ftruncate":
        file.truncate(call.ended, int(last))
    elif call.name in {"fsync", "fdatasync"} and call.result == 0:
        file.sync(call.begun)
    assert call.name != "write", "this simulation follows positioned writes only"


def calls(trace: Path) -> Iterator[Call]:
    """The calls of a trace in the order in which they returned."""
    begun: dict[str, tuple[int, str]] = {}
    with trace.open() as lines:
        for number, line in enumerate(lines):
            found = _LINE.match(line.rstrip("\n"))
            assert found is not None
            process, text = found.groups()
            start = number
            if text.endswith(_UNFINISHED):
                begun[process] = (number, text.removesuffix(_UNFINISHED))
                continue
            if resumed := _RESUMED.match(text):
                start, head = begun.pop(process)
                text = head + resumed.group(1)
            if call := _CALL.match(text):
                yield Call(call.group(1), call.group(2), int(call.group(3)), start, number)


def _text(arguments: str) -> bytes:
    found = _STRING.search(arguments)
    return bytes.fromhex(found.group(1).replace("\\x", "")) if found else b""
