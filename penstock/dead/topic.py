"""The dead topics on the bus: reads their letters, and sends records again."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

from penstock.dead.letters import ReadLetter, Redriven, read_letter
from penstock.dead.redriving import Redrive, due
from protocol.errors import FleetError, NotFound
from protocol.naming import Names
from protocol.ports import Bus, OutRecord, Published, Record


@dataclasses.dataclass(slots=True)
class DeadTopic:
    """The content of one model's dead topic.

    Attributes:
        model: its name.
        letters: in the topic's order.
        notes: of redrives.
    """

    model: str
    letters: list[ReadLetter] = dataclasses.field(default_factory=list)
    notes: list[Redriven] = dataclasses.field(default_factory=list)


async def models_announced(bus: Bus, names: Names) -> list[str]:
    """All models ever announced, by name; the catalogue keeps removed ones."""
    found: set[str] = set()
    async for records in there_now(bus, names.catalogue_topic):
        for record in records:
            model, slash, _ = (record.key or b"").rpartition(b"/")
            if slash and (name := _model(model, names)):
                found.add(name)
    return sorted(found)


def _model(raw: bytes, names: Names) -> str:
    """A model's name from a key of the catalogue; "" if no worker can have written it."""
    try:
        name = raw.decode()
        names.infer_topic(name, "1")
    except (UnicodeDecodeError, FleetError):
        return ""
    return name


async def read_dead_topic(bus: Bus, names: Names, model: str) -> DeadTopic:
    """The dead letters of one model; none if it has no dead topic yet. Values are not kept in memory."""
    found = DeadTopic(model)
    async for records in there_now(bus, names.dead_topic(model)):
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
    record = await bus.read_record(names.dead_topic(letter.model), letter.partition, letter.offset)
    if record is None:
        raise NotFound(
            f"the dead letter {letter.place} is no longer in {names.dead_topic(letter.model)}: its retention has passed"
        )
    return bytes(record.value)


async def there_now(
    bus: Bus, topic: str, start: Mapping[int, int] | None = None
) -> AsyncGenerator[Sequence[Record], None]:
    """The records of the topic when reading began (and perhaps a few more), from `start`; none if there is no such topic."""
    stream: AsyncIterator[Sequence[Record]] = bus.follow(topic, start)
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
    """The result of one redrive: its record's place, or the problem."""

    redrive: Redrive
    published: Published | None
    problem: str = ""


async def send_again(
    bus: Bus, names: Names, redrives: Sequence[Redrive], rate: float, on_sent: Callable[[Sent], None]
) -> list[Sent]:
    """Send records again, each to its original topic and partition, and note each in the dead topic.

    The note comes second: after a crash in between the redrive is repeated under the same id, and the result store keeps one
    answer.

    Args:
        bus: open.
        names: the fleet's names.
        redrives: in sending order.
        rate: records per second; 0 for no limit.
        on_sent: called with each result.
    """
    loop = asyncio.get_running_loop()
    started, done = loop.time(), []
    for number, each in enumerate(redrives):
        await asyncio.sleep(max(0.0, due(number, rate, started) - loop.time()))
        try:
            sent = Sent(each, await _send(bus, names, each))
        except FleetError as exc:
            sent = Sent(each, None, exc.message)
        except Exception as exc:  # a foreign record that our client cannot write; the others are sent
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
        published = await bus.publish(letter.topic, [record])  # the topic was created again with fewer partitions
    await bus.publish(names.dead_topic(letter.model), [each.note()])
    return published
