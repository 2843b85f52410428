import contextlib
import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import jars
from infra.local.installation import Installation
from infra.local.jars import POM, REPOSITORY_VARIABLE, Jar
from infra.local.places import Places
from protocol.errors import ConfigError, Unavailable

NOWHERE = Places(path="", package=lambda _: None)


@contextlib.contextmanager
def repository(folder: Path) -> Iterator[str]:
    """A Maven repository on loopback that serves `folder`; its base URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def as_repository(installed: Installation, folder: Path) -> Path:
    """The fetched jars laid out as a Maven repository."""
    for jar in jars.pinned():
        place = folder / jar.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(installed.jars / jar.file_name)
    return folder


def test_a_pin_is_a_path_in_a_maven_repository() -> None:
    jar = Jar("org.apache.kafka", "kafka-clients", "4.1.1", "0" * 64)

    assert jar.path == "org/apache/kafka/kafka-clients/4.1.1/kafka-clients-4.1.1.jar"
    assert jars.parse_pins(f"# a comment\n\n{jar}\n") == [jar]


@pytest.mark.parametrize("line", ["garbage", f"{'0' * 63}  a:b:1", f"{'0' * 64}  a:b", f"{'0' * 64}  a::1"])
def test_a_line_that_is_no_pin_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match=r"kafka-jars\.txt line 2"):
        jars.parse_pins(f"# pins\n{line}\n")


def test_the_list_pins_what_the_pom_asks_for() -> None:
    asked = re.findall(r"<artifactId>(\S+)</artifactId>\s*<version>(\S+)</version>\s*</dependency>", POM.read_text())
    listed = {(jar.artifact, jar.version) for jar in jars.pinned()}

    assert len(asked) == 2
    assert set(asked) <= listed


def test_no_two_pins_share_a_file() -> None:
    names = [jar.file_name for jar in jars.pinned()]

    assert len(names) == len(set(names))


def test_a_repository_that_cannot_be_reached_is_named_with_the_way_out(tmp_path: Path) -> None:
    with repository(tmp_path) as url, pytest.raises(Unavailable, match="404") as raised:
        jars.fetch(tmp_path / "cache", {REPOSITORY_VARIABLE: url}, NOWHERE)

    assert url in raised.value.message
    assert REPOSITORY_VARIABLE in raised.value.message
    assert not jars.complete(tmp_path / "cache")


def test_only_the_web_is_a_repository(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="http or https URL"):
        jars.fetch(tmp_path, {REPOSITORY_VARIABLE: "file:///etc"}, NOWHERE)


def test_a_maven_that_fails_is_quoted_beside_the_download_that_failed(tmp_path: Path) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho 'no route to the mirror'\nexit 1\n")
    maven.chmod(0o755)

    with pytest.raises(Unavailable, match="no route to the mirror"):
        jars.pin(Places(path=str(tmp_path)))


@pytest.mark.servers
def test_downloads_what_maven_would_bring(kafka_installation: Installation, tmp_path: Path) -> None:
    with repository(as_repository(kafka_installation, tmp_path / "repository")) as url:
        folder = jars.fetch(tmp_path / "cache", {REPOSITORY_VARIABLE: url}, NOWHERE)

    assert sorted(file.name for file in folder.iterdir()) == sorted(jar.file_name for jar in jars.pinned())
    assert jars.complete(tmp_path / "cache")
    assert [folder] == list(folder.parent.iterdir())


@pytest.mark.servers
def test_a_jar_that_is_not_the_pinned_one_never_reaches_the_cache(
    kafka_installation: Installation, tmp_path: Path
) -> None:
    root = as_repository(kafka_installation, tmp_path / "repository")
    forged = root / next(jar.path for jar in jars.pinned() if jar.artifact == "jose4j")
    forged.unlink()
    forged.write_bytes(b"something else")

    with repository(root) as url, pytest.raises(Unavailable, match=r"not the jars .* pins: jose4j-"):
        jars.fetch(tmp_path / "cache", {REPOSITORY_VARIABLE: url}, NOWHERE)

    assert list((tmp_path / "cache" / "kafka").iterdir()) == []
