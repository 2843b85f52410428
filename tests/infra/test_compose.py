import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from infra.local import jars
from infra.local.kafka import PROFILE, parse_properties, single_node
from penstock.cli import group

INFRA = Path(__file__).parents[2] / "infra"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return loaded


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Path in the container → file or folder on this side, variables at their defaults."""
    found = {}
    for volume in service["volumes"]:
        source, target, *_ = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")
        if source.startswith("."):
            found[target] = (INFRA / source).resolve()
    return found


def test_has_a_broker_a_store_a_gateway_and_two_workers(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"kafka", "redis", "gateway", "worker"}
    assert compose["services"]["worker"]["deploy"]["replicas"] == 2


def test_the_broker_is_the_one_that_tests_run_on(compose: dict[str, Any]) -> None:
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{jars.kafka_version()}"


def test_both_servers_run_the_settings_that_local_ones_do(compose: dict[str, Any]) -> None:
    assert mounts(compose["services"]["kafka"]) == {"/mnt/shared/config/server.properties": PROFILE}
    assert mounts(compose["services"]["redis"]) == {"/etc/redis/redis.conf": INFRA / "redis.conf"}


def test_the_broker_gets_what_the_profile_leaves_to_the_machine(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    given = {key.removeprefix("KAFKA_").lower().replace("_", ".") for key in environment}

    assert single_node(1, 2, Path("/data")).keys() <= given
    assert not parse_properties(PROFILE.read_text()).keys() & given


def test_every_listener_is_advertised_and_has_a_protocol(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    listeners = {part.split("://")[0] for part in environment["KAFKA_LISTENERS"].split(",")}
    advertised = {part.split("://")[0] for part in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")}
    mapped = {part.split(":")[0] for part in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}

    assert listeners == mapped
    assert advertised == listeners - {environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_every_flag_is_one_of_the_command_lines(compose: dict[str, Any], name: str) -> None:
    command, *arguments = compose["services"][name]["command"]
    known = group.get_command(click.Context(group), command)

    assert command == name
    assert known is not None
    flags = {flag for parameter in known.params for flag in parameter.opts}
    used = set(arguments[::2])
    assert used <= flags
    assert {"--kafka", "--redis"} <= used


def test_a_gateway_that_others_reach_needs_a_key(compose: dict[str, Any]) -> None:
    key = compose["services"]["gateway"]["environment"]["PENSTOCK_API_KEY"]

    assert key.startswith("${PENSTOCK_API_KEY:?")


def test_the_default_models_are_there(compose: dict[str, Any]) -> None:
    models = mounts(compose["services"]["worker"])["/models"]

    assert list(models.glob("*/config.pbtxt"))


def test_only_loopback_is_published(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_image_is_built_from_files_that_exist(compose: dict[str, Any]) -> None:
    build = compose["services"]["gateway"]["build"]
    root = (INFRA / build["context"]).resolve()
    dockerfile = (root / build["dockerfile"]).read_text()
    copied = [part for line in re.findall(r"^COPY (?!--)(.+)$", dockerfile, re.M) for part in line.split()[:-1]]
    allowed = {
        line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }

    assert copied
    assert all((root / part).exists() for part in copied)
    assert set(copied) == allowed
