import dataclasses
from pathlib import Path

import pytest

from infra.local.installation import Installation
from infra.local.kafka import Broker, Jvm
from infra.local.prepare import train


@pytest.fixture
def untrained(kafka_installation: Installation, tmp_path: Path) -> Installation:
    """The same Java and jars, in a folder without a class archive."""
    folder = tmp_path / "jars"
    folder.mkdir()
    for jar in kafka_installation.jars.glob("*.jar"):
        (folder / jar.name).symlink_to(jar)
    return dataclasses.replace(kafka_installation, jars=folder)


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_trains_an_archive_that_the_broker_starts_from(untrained: Installation, tmp_path: Path) -> None:
    assert train(untrained)

    # `on` instead of the default `auto`: a JVM that cannot use the archive ends instead of continuing without it.
    strict = Jvm(options=(*Jvm.options, "-Xshare:on"))
    with Broker(tmp_path / "kafka", jvm=strict, installed=untrained) as broker:
        assert broker.running


@pytest.mark.servers
def test_an_archive_that_java_cannot_read_is_not_in_the_way(untrained: Installation, tmp_path: Path) -> None:
    untrained.archive.write_bytes(b"not an archive")

    with Broker(tmp_path / "kafka", installed=untrained) as broker:
        assert broker.running
