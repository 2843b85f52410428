"""`penstock topics`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, Final

import click

from penstock.cli import interrupts
from penstock.cli.options import Decorator, fleet_options, options
from penstock.cli.settings import transport_settings
from protocol.errors import ConfigError, InvalidArgument
from protocol.naming import Names
from protocol.transport.settings import TransportSettings

MAX_PARTITIONS: Final = 1024
"""Of one topic: each is an entry in every fetch, and files on every replica."""


@dataclasses.dataclass(frozen=True, slots=True)
class WantedTopic:
    """A model version's topic of interactive requests.

    Attributes:
        model: the model's name.
        version: its version.
        partitions: of a new topic.
    """

    model: str
    version: str
    partitions: int


class WantedTopicType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    """MODEL/VERSION=PARTITIONS."""

    name = "topic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> WantedTopic:
        """The parsed value."""
        if isinstance(value, WantedTopic):
            return value
        place, _, count = str(value).rpartition("=")
        model, _, version = place.rpartition("/")
        if not (count.isascii() and count.isdecimal() and 1 <= int(count[:8]) <= MAX_PARTITIONS):
            self.fail(f"{value!r} is not MODEL/VERSION=PARTITIONS with 1 to {MAX_PARTITIONS} partitions", param, ctx)
        try:
            Names().infer_topic(model, version)
        except InvalidArgument as exc:
            self.fail(f"{value!r} is not MODEL/VERSION=PARTITIONS: {exc.message}", param, ctx)
        return WantedTopic(model, version, int(count))


_topics: Decorator = click.option(
    "--topic",
    "wanted",
    multiple=True,
    required=True,
    type=WantedTopicType(),
    metavar="MODEL/VERSION=PARTITIONS",
    help="A model version and how many partitions a new topic of it has; may be repeated.",
)


@click.command()
@options(_topics, fleet_options)
def command(wanted: tuple[WantedTopic, ...], **flags: Any) -> None:
    """Create the topics of model versions, so that requests can wait there before a first worker runs. Leaves those that exist as
    they are, and needs no --redis.

    Exits with 1 if a topic has fewer partitions than wanted: more workers than partitions would be idle.

    \b
        penstock topics --kafka localhost:9092 --topic digits/1=8
    """
    if not flags["kafka"]:
        raise ConfigError("creating topics needs --kafka HOST:PORT")
    short = interrupts.run(_create(transport_settings(bus_only=True, **flags), wanted))
    sys.exit(1 if short else 0)


async def _create(settings: TransportSettings, wanted: tuple[WantedTopic, ...]) -> int:
    """Creates and prints the topics; returns how many have too few partitions."""
    from protocol.transport import open_bus

    bus, names, short = open_bus(settings), settings.names, 0
    await bus.open()
    try:
        await bus.ensure_topic(names.catalogue_topic, 1, compacted=True)
        await bus.ensure_topic(names.control_topic, 1, compacted=True)
        for each in wanted:
            topic = names.infer_topic(each.model, each.version)
            found = await bus.ensure_topic(topic, each.partitions)
            print(f"{topic}  {found} partitions")
            if found < each.partitions:
                short += 1
                click.echo(
                    f"penstock: {topic} has {found} partitions, and {each.partitions} are wanted: at most {found} workers "
                    f"share it; kafka-topics.sh --alter --topic {topic} --partitions {each.partitions}",
                    err=True,
                )
    finally:
        await bus.close()
    return short
