"""The programs for a broker: Java, Kafka's jars and, once trained, a class archive that halves the start time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from infra.local import jars
from infra.local.java import Java, find_java
from infra.local.places import Places, cache_folder, this_system


@dataclasses.dataclass(frozen=True)
class Installation:
    """A Java and the folder of Kafka's jars."""

    java: Java
    jars: Path

    @property
    def archive(self) -> Path:
        """The class archive for this Java build and these jars, made by `prepare`; need not exist."""
        return self.jars / f"classes-{self.java.build}.jsa"

    @property
    def class_path(self) -> str:
        """All jars in a fixed order: an archive is valid for one order only."""
        return os.pathsep.join(sorted(str(jar) for jar in self.jars.glob("*.jar")))


def find(environ: Mapping[str, str] = os.environ, places: Places | None = None) -> Installation:
    """The Java and the jars of this system; fetches missing jars.

    Raises:
        Unavailable: one of them is unavailable; names the command that installs it.
    """
    places = places or this_system(environ)
    java = find_java(places)
    return Installation(java, jars.fetch(cache_folder(environ), environ, places))
