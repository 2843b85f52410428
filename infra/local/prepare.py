"""Prepares a broker's start ahead of time: fetches the jars, and archives loaded classes, which halves the start time.

The archive is an optimisation only: a Java that cannot make one, or finds it made by another build, loads the classes from
the jars.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from infra.local import installation
from infra.local.installation import Installation
from infra.local.kafka import Broker, Jvm
from infra.local.places import Places

DUMP_TIMEOUT = 120.0


def prepare(
    environ: Mapping[str, str] = os.environ,
    places: Places | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Installation:
    """Fetches missing parts and builds the class archive once; takes seconds the first time, milliseconds later.

    Raises:
        Unavailable: Java or the jars are unavailable, or the broker does not start.
    """
    say("looking for Java and Kafka's jars …")
    installed = installation.find(environ, places)
    if not installed.archive.exists():
        say("recording which classes a broker loads, so that it starts twice as fast …")
        train(installed)
    return installed


def train(installed: Installation) -> bool:
    """Runs a broker once and archives the classes it loaded. Returns whether there is an archive now."""
    with tempfile.TemporaryDirectory(prefix="penstock-kafka-") as folder:
        data = Path(folder)
        classes = data / "classes.lst"
        jvm = Jvm(options=(*Jvm.options, f"-XX:DumpLoadedClassList={classes}"))
        with Broker(data / "kafka", jvm=jvm, installed=installed):
            pass
        made = data / "classes.jsa"
        options = [*Jvm.options, "-Xshare:dump", f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={made}"]
        command = [str(installed.java.program), f"-Xmx{Jvm.heap}", *options, "-cp", installed.class_path]
        try:
            subprocess.run(command, capture_output=True, timeout=DUMP_TIMEOUT, check=True)
        except (OSError, subprocess.SubprocessError):
            return False
        return _put(made, installed.archive)


def _put(made: Path, archive: Path) -> bool:
    """Moves it into the cache in one step: a broker that starts meanwhile sees all of it or nothing."""
    if not made.exists():
        return False
    arriving = archive.with_suffix(f".{os.getpid()}")
    arriving.write_bytes(made.read_bytes())
    arriving.replace(archive)
    return True
