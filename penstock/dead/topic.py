"""The dead topics on the bus: reading what is there now, and sending records again."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from penstock.dead.letters import ReadLetter, Redriven, read_letter
from penstock.dead.redriving import Redrive, due
from protocol.errors import FleetError, NotFound
from protocol.naming import Names
from protocol.ports import Bus, OutRecord, Published, Record


@dataclasses.dataclass(slots=True)
class DeadTopic:
    """What is in the dead topic of one model.

    Attributes:
        model: its name.
        letters: in the topic's order.
        notes: of redrives.
    """

    model: str
    letters: list[ReadLetter] = dataclasses.field(default_factory=list)
    notes: list[Redriven] = dataclasses.field(default_factory=list)


async def models_announced(bus: Bus, names: Names) -> list[str]:
    """Every model that was ever announced, by name: the catalogue keeps those that are gone, too."""
    found: set[str] = set()
    async for records in _there_now(bus, names.catalogue_topic):
        for record in records:
            model, slash, _ = (record.key or b"").rpartition(b"/")
            if slash and (name := _model(model, names)):
                found.add(name)
    return sorted(found)


def _model(raw: bytes, names: Names) -> str:
    """A model's name as the catalogue's key has it; "" where no worker can have written that."""
    try:
        name = raw.decode()
        names.infer_topic(name, "1")
    except (UnicodeDecodeError, FleetError):
        return ""
    return name


async def read_dead_topic(bus: Bus, names: Names, model: str) -> DeadTopic:
    """The dead letters of one model; none where it has no dead topic yet. Values are not kept in memory."""
    found = DeadTopic(model)
    async for records in _there_now(bus, names.dead_topic(model)):
        for record in records:
            letter = read_letter(record, model)
            if isinstance(letter, Redriven):
                found.notes.append(letter)
            else:
                found.letters.append(letter)
    return found


async def read_value(bus: Bus, names: Names, letter: ReadLetter) -> bytes:
    """The original record's value.

    Raises:
        NotFound: the dead topic no longer has it.
    """
    record = await bus.read(names.dead_topic(letter.model), letter.partition, letter.offset)
    if record is None:
        raise NotFound(
            f"the dead letter {letter.place} is no longer in {names.dead_topic(letter.model)}: its retention passed"
        )
    return bytes(record.value)


async def _there_now(bus: Bus, topic: str) -> AsyncGenerator[Sequence[Record], None]:
    """What the topic held when reading began (and perhaps a little more); nothing where there is no such topic."""
    stream: AsyncIterator[Sequence[Record]] = bus.follow(topic)
    try:
        async for records in stream:
            if not records:
                return
            yield records
    except NotFound:
        return
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """What became of one redrive: where its record is, or why it is nowhere."""

    redrive: Redrive
    published: Published | None
    problem: str = ""


async def send_again(
    bus: Bus, names: Names, redrives: Sequence[Redrive], rate: float, on_sent: Callable[[Sent], None]
) -> list[Sent]:
    """Send the records again, at `rate` a second, each to its original topic and partition, and note it in the dead topic.

    The note comes second: a crash in between repeats the redrive under the same id, which the result store answers once.

    Args:
        bus: open.
        names: under the fleet's prefix.
        redrives: in the order in which they go.
        rate: records a second; 0 is as fast as it can.
        on_sent: called with what became of each, as it happens.
    """
    loop = asyncio.get_running_loop()
    started, done = loop.time(), []
    for number, each in enumerate(redrives):
        await asyncio.sleep(max(0.0, due(number, rate, started) - loop.time()))
        try:
            sent = Sent(each, await _send(bus, names, each))
        except FleetError as exc:
            sent = Sent(each, None, exc.message)
        except Exception as exc:  # what a stranger wrote that our client does not write; the others go on
            sent = Sent(each, None, f"cannot be written as it is: {exc!r}")
        on_sent(sent)
        done.append(sent)
    return done


async def _send(bus: Bus, names: Names, each: Redrive) -> Published:
    letter = each.letter
    record = OutRecord(await read_value(bus, names, letter), each.headers(), letter.key)
    partition = letter.source[0] if letter.source else None
    try:
        published = await bus.publish(letter.topic, [record], partition)
    except NotFound:
        if partition is None:
            raise
        published = await bus.publish(letter.topic, [record])  # the topic was made again with fewer partitions
    await bus.publish(names.dead_topic(letter.model), [each.note()])
    return published
