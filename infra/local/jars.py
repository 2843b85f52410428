"""Kafka's jars: pinned by checksum, fetched by Maven if it is installed, else downloaded one by one.

Invariants:
- a jar that differs from the pinned one never reaches the cache, whatever its source;
- the folder appears under its final name only when it is complete.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from infra.local.places import Places, cache_folder, this_system
from protocol.errors import ConfigError, Unavailable

POM = Path(__file__).with_name("pom.xml")
PINS = Path(__file__).with_name("kafka-jars.txt")
REPOSITORY_VARIABLE = "PENSTOCK_MAVEN_REPOSITORY"
"""Base URL of a Maven repository to download from instead; also switches Maven itself off."""

CENTRAL = "https://repo.maven.apache.org/maven2"
LARGEST_JAR = 64 << 20
MAVEN_TIMEOUT = 600.0


@dataclasses.dataclass(frozen=True)
class Jar:
    """One pinned file of a Maven repository."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """As Maven names it in a flat folder."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> str:
        """Below the repository's base URL."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file_name}"

    def __str__(self) -> str:
        return f"{self.sha256}  {self.group}:{self.artifact}:{self.version}"


def parse_pins(text: str) -> list[Jar]:
    """The jars of a list with one `SHA256  GROUP:ARTIFACT:VERSION` a line; `#` opens a comment.

    Raises:
        ConfigError: a line is not an entry; names it.
    """
    jars = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        sha256, _, coordinates = line.partition("  ")
        parts = coordinates.split(":")
        if len(sha256) != 64 or len(parts) != 3 or not all(parts):
            raise ConfigError(f"{PINS.name} line {number}: expected 'SHA256  GROUP:ARTIFACT:VERSION', got {line!r}")
        group, artifact, version = parts
        jars.append(Jar(group, artifact, version, sha256))
    return jars


def pinned() -> list[Jar]:
    """The committed list."""
    return parse_pins(PINS.read_text())


def kafka_version() -> str:
    """The pinned version of the broker."""
    return next(jar.version for jar in pinned() if jar.artifact.startswith("kafka_"))


def folder(cache: Path) -> Path:
    """The folder of the pinned jars, present or future."""
    return cache / "kafka" / kafka_version()


def complete(cache: Path) -> bool:
    """Whether every pinned jar is in the cache; contents were verified on arrival."""
    there = folder(cache)
    return all((there / jar.file_name).is_file() for jar in pinned())


def fetch(cache: Path | None = None, environ: Mapping[str, str] = os.environ, places: Places | None = None) -> Path:
    """The folder that holds the pinned jars; fetches missing ones.

    Raises:
        Unavailable: neither Maven nor a download provides them, or a checksum differs.
    """
    cache = cache or cache_folder(environ)
    target = folder(cache)
    if complete(cache):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    arriving = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        _bring(arriving, environ, places or this_system(environ))
        _verify(arriving)
        if not complete(cache):
            shutil.rmtree(target, ignore_errors=True)
            arriving.rename(target)
    except OSError:
        if not complete(cache):  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return target


def pin(places: Places | None = None) -> list[Jar]:
    """Rewrites the list from the jars that Maven resolves for the pom."""
    with tempfile.TemporaryDirectory() as layout:
        _maven(places or this_system(), "-Dmdep.useRepositoryLayout=true", f"-DoutputDirectory={layout}")
        jars = [_from_layout(Path(layout), path) for path in sorted(Path(layout).rglob("*.jar"))]
    heading = "# What `mvn dependency:copy-dependencies` brings for pom.xml; written by `python -m infra.local pin`.\n"
    PINS.write_text(heading + "".join(f"{jar}\n" for jar in jars))
    return jars


def _from_layout(root: Path, path: Path) -> Jar:
    *group, artifact, version, _ = path.relative_to(root).parts
    return Jar(".".join(group), artifact, version, hashlib.sha256(path.read_bytes()).hexdigest())


def _bring(arriving: Path, environ: Mapping[str, str], places: Places) -> None:
    """By Maven, which knows this system's mirrors and proxies; else, or if that fails, by download."""
    repository = environ.get(REPOSITORY_VARIABLE, "")
    refused = ""
    if not repository and places.program("mvn") is not None:
        try:
            _maven(places, f"-DoutputDirectory={arriving}")
            return
        except Unavailable as error:
            refused = f"; and {error.message}"
    try:
        _download(arriving, repository or CENTRAL)
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"Kafka {kafka_version()} cannot be downloaded from {repository or CENTRAL} ({error}){refused}. "
            f"Install Maven if it is set up for this network, or set {REPOSITORY_VARIABLE} to the base URL of a Maven "
            "repository that can be reached, or name a running broker in PENSTOCK_TEST_KAFKA"
        ) from error


def _maven(places: Places, *options: str) -> None:
    program = places.program("mvn")
    if program is None:
        raise Unavailable("Maven (mvn) is not on the path")
    command = [str(program), "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    try:
        subprocess.run([*command, *options], capture_output=True, text=True, timeout=MAVEN_TIMEOUT, check=True)
    except subprocess.CalledProcessError as error:
        last = "\n".join((error.stdout + error.stderr).strip().splitlines()[-5:])
        raise Unavailable(f"{program} failed:\n{last}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{program} failed: {error}") from error


def _download(arriving: Path, repository: str) -> None:
    if not repository.startswith(("https://", "http://")):
        raise ValueError(f"{REPOSITORY_VARIABLE} must be an http or https URL")

    def one(jar: Jar) -> None:
        url = f"{repository.rstrip('/')}/{jar.path}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 -- the scheme is checked above
                (arriving / jar.file_name).write_bytes(answer.read(LARGEST_JAR))
        except urllib.error.HTTPError as error:
            with error:  # it is the answer too, with a connection to close
                raise OSError(f"{jar.file_name}: {error.code} {error.reason}") from None

    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as threads:
        for done in [threads.submit(one, jar) for jar in pinned()]:
            done.result()


def _verify(arriving: Path) -> None:
    wanted = {jar.file_name: jar.sha256 for jar in pinned()}
    came = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in arriving.glob("*.jar")}
    if wrong := sorted(name for name in wanted.keys() | came.keys() if wanted.get(name) != came.get(name)):
        raise Unavailable(f"not the jars that {PINS.name} pins: {', '.join(wrong)}; the cache was left as it was")
