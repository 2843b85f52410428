"""What only a real broker does: refuse, restart, forget; members that die, are evicted or replaced; TLS and SASL."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from infra.local.installation import Installation
from infra.local.kafka import Broker
from infra.local.process import free_port
from protocol.errors import FleetError, TooLarge, Unavailable
from protocol.frames import MAX_RECORD
from protocol.ports import Assigned, Consumer, OutRecord, Record
from protocol.transport.kafka.bus import KafkaBus
from protocol.transport.settings import TransportSettings
from tests.transport.contract_bus import Owner, numbered, take, values
from tests.transport.test_kafka import KafkaSite

pytestmark = pytest.mark.servers

TLS = Path(__file__).parent / "tls"


@pytest.fixture
async def site(kafka_bootstrap: str, prefix: str) -> AsyncIterator[KafkaSite]:
    site = KafkaSite(kafka_bootstrap, prefix)
    yield site
    await site.close()


async def join(site: KafkaSite, bus: KafkaBus, topic: str, member: str) -> tuple[Consumer, Owner]:
    owner = Owner()
    return await bus.subscribe(topic, topic, member, owner), owner


async def balanced(site: KafkaSite, members: Sequence[tuple[Consumer, Owner]], partitions: int) -> None:
    def settled() -> bool:
        owned = [len(owner.owned) for _, owner in members]
        return sum(owned) == partitions and max(owned) - min(owned) <= 1

    await site.until(settled, *(consumer for consumer, _ in members))


class TestOwnership:
    async def test_eviction_hands_over_within_two_seconds_of_a_long_session(self, site: KafkaSite) -> None:
        site.session_timeout = 30.0
        topic, buses = site.topic("evicted"), [await site.connect() for _ in range(3)]
        await buses[0].ensure_topic(topic, 6)
        members = [await join(site, bus, topic, f"w{n}") for n, bus in enumerate(buses)]
        await balanced(site, members, 6)
        for partition in range(6):
            await buses[1].publish(topic, numbered(3, 3 * partition), partition)
        await site.crash(members[0][0])
        began = time.monotonic()
        await buses[1].evict(topic, ["w0"])
        await balanced(site, members[1:], 6)
        took = time.monotonic() - began
        got = [value for consumer, _ in members[1:] for value in values(await take(consumer, 9, 5.0))]
        assert sorted(got) == sorted(record.value for record in numbered(18))
        assert took < 2.0, f"the survivors owned everything after {took:.2f} s"

    async def test_survivors_keep_what_they_had(self, site: KafkaSite) -> None:
        topic, buses = site.topic("sticky"), [await site.connect() for _ in range(3)]
        await buses[0].ensure_topic(topic, 6)
        members = [await join(site, bus, topic, f"w{n}") for n, bus in enumerate(buses)]
        await balanced(site, members, 6)
        before = [set(owner.owned) for _, owner in members]
        await site.crash(members[0][0])
        await buses[1].evict(topic, ["w0"])
        await balanced(site, members[1:], 6)
        for (_, owner), kept in zip(members[1:], before[1:], strict=True):
            assert kept < set(owner.owned)

    async def test_a_restarted_member_disturbs_nobody(self, site: KafkaSite) -> None:
        """Static membership: the same id joins again and gets its old partitions, without a rebalance."""
        topic, buses = site.topic("restarted"), [await site.connect() for _ in range(3)]
        await buses[0].ensure_topic(topic, 4)
        members = [await join(site, bus, topic, f"w{n}") for n, bus in enumerate(buses[:2])]
        await balanced(site, members, 4)
        had, epochs = set(members[0][1].owned), list(members[1][1].epochs)
        await site.crash(members[0][0])
        again = await join(site, buses[2], topic, "w0")
        await balanced(site, [again, members[1]], 4)
        assert set(again[1].owned) == had
        assert members[1][1].epochs == epochs

    async def test_an_evicted_member_that_lives_joins_again_by_itself(self, site: KafkaSite) -> None:
        topic, buses = site.topic("back"), [await site.connect() for _ in range(2)]
        await buses[0].ensure_topic(topic, 4)
        members = [await join(site, bus, topic, f"w{n}") for n, bus in enumerate(buses)]
        await balanced(site, members, 4)
        epoch = members[0][1].epochs[-1]
        await buses[1].evict(topic, ["w0"])
        await site.until(lambda: members[0][1].epochs[-1] > epoch, *(consumer for consumer, _ in members))
        await balanced(site, members, 4)
        for partition in range(4):
            await buses[1].publish(topic, numbered(1, partition), partition)
        got = [value for consumer, _ in members for value in values(await take(consumer, 2))]
        assert sorted(got) == [record.value for record in numbered(4)]

    async def test_a_replaced_member_learns_it_and_does_not_take_back(self, site: KafkaSite) -> None:
        topic, buses = site.topic("replaced"), [await site.connect() for _ in range(2)]
        await buses[0].ensure_topic(topic, 2)
        old, former = await join(site, buses[0], topic, "w0")
        await site.until(lambda: len(former.owned) == 2, old)
        new, owner = await join(site, buses[1], topic, "w0")
        await site.until(lambda: len(owner.owned) == 2, new)

        async def fetch_until_refused() -> None:
            async with asyncio.timeout(site.time_limit):
                while True:
                    await asyncio.gather(old.fetch(1, 0.1), new.fetch(1, 0.1, ()))

        with pytest.raises(Unavailable, match="same id"):
            await fetch_until_refused()
        assert former.owned == {}
        with pytest.raises(Unavailable):
            await old.commit({0: 0})
        end = time.monotonic() + 1.5
        await site.until(lambda: time.monotonic() > end, new)
        assert owner.epochs == [1]
        assert len(owner.owned) == 2

    async def test_more_members_than_partitions(self, site: KafkaSite) -> None:
        topic, buses = site.topic("spare"), [await site.connect() for _ in range(2)]
        await buses[0].ensure_topic(topic, 1)
        members = [await join(site, bus, topic, f"w{n}") for n, bus in enumerate(buses)]
        await balanced(site, members, 1)
        spare = next(consumer for consumer, owner in members if not owner.owned)
        assert await spare.fetch(1, 0.05) == []
        assert (spare.backlog(), await spare.lag()) == (0, 0)


class TestTopics:
    async def test_a_batch_that_the_broker_refuses_does_not_poison_the_partition(
        self, site: KafkaSite, admin: AIOKafkaAdminClient
    ) -> None:
        """aiokafka counts a refused batch's sequence numbers: without a new producer all that follows would be refused."""
        topic, bus = site.topic("small"), await site.connect()
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "10000"})])
        await bus.publish(topic, numbered(2))
        for turn in range(3):
            with pytest.raises(TooLarge):
                await bus.publish(topic, [OutRecord(bytes(20_000))])
            published = await bus.publish(topic, numbered(2, 2 * turn))
            assert published.offset == 2 + 2 * turn

    async def test_publishers_beside_a_refused_one_lose_nothing(
        self, site: KafkaSite, admin: AIOKafkaAdminClient
    ) -> None:
        topic, bus = site.topic("beside"), await site.connect()
        await admin.create_topics([NewTopic(topic, 2, 1, topic_configs={"max.message.bytes": "10000"})])
        calls = [
            bus.publish(topic, [OutRecord(bytes(20_000))] if turn % 5 == 0 else [OutRecord(b"%d" % turn)])
            for turn in range(40)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[::5]] == [TooLarge] * 8
        consumer, owner = await join(site, bus, topic, "w0")
        await site.until(lambda: len(owner.owned) == 2, consumer)
        acknowledged = {turn for turn, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)}
        assert acknowledged == {turn for turn in range(40) if turn % 5}
        assert {int(value) for value in values(await take(consumer, 32))} == acknowledged

    async def test_a_group_above_the_limit_is_split(self, site: KafkaSite) -> None:
        topic, bus = site.topic("split"), await site.connect()
        await bus.ensure_topic(topic, 1)
        size = MAX_RECORD // 3
        published = await bus.publish(topic, [OutRecord(b"%d" % n * size) for n in range(5)])
        consumer, owner = await join(site, bus, topic, "w0")
        await site.until(lambda: len(owner.owned) == 1, consumer)
        got = await take(consumer, 5)
        assert [(record.offset, record.value[:1]) for record in got] == [
            (published.offset + n, b"%d" % n) for n in range(5)
        ]

    async def test_records_deleted_unread_show_as_a_later_start(
        self, site: KafkaSite, admin: AIOKafkaAdminClient
    ) -> None:
        topic, bus = site.topic("lost"), await site.connect()
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(10))
        first, owner = await join(site, bus, topic, "w0")
        await site.until(lambda: len(owner.owned) == 1, first)
        await first.commit({0: 2})
        await site.crash(first)
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=6)})
        second, owner = await join(site, await site.connect(), topic, "w0")
        await site.until(lambda: len(owner.owned) == 1, second)
        assert owner.owned[0] == Assigned(partition=0, committed=2, end=10, start=6)
        assert [record.offset for record in await take(second, 4)] == [6, 7, 8, 9]
        assert await bus.read_record(topic, 0, 3) is None

    async def test_a_commit_behind_the_end_of_the_log_starts_again(self, site: KafkaSite) -> None:
        """An unclean election has truncated the log: the rest may be unanswered, and is read again."""
        topic, bus = site.topic("cut"), await site.connect()
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(4))
        first, owner = await join(site, bus, topic, "w0")
        await site.until(lambda: len(owner.owned) == 1, first)
        await first.commit({0: 100})
        await site.crash(first)
        second, owner = await join(site, await site.connect(), topic, "w0")
        await site.until(lambda: len(owner.owned) == 1, second)
        assert owner.owned[0] == Assigned(partition=0, committed=0, end=4, start=0)
        assert [record.offset for record in await take(second, 4)] == [0, 1, 2, 3]
        assert (second.backlog(), await second.lag()) == (0, 4)

    async def test_a_topic_made_again_is_read_from_its_start(self, site: KafkaSite, admin: AIOKafkaAdminClient) -> None:
        topic = site.topic("again")
        bus = await site.connect()
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(10))
        first, owner = await join(site, bus, topic, "w0")
        await site.until(lambda: len(owner.owned) == 1, first)
        await first.commit({0: 10})
        await site.crash(first)
        # Deleting a topic deletes its offsets too; only a truncated log (unclean election) ends below its commit.
        await bus.evict(topic, ["w0"])
        await admin.delete_topics([topic])
        other = await site.connect()
        async with asyncio.timeout(site.time_limit):
            while True:
                with contextlib.suppress(FleetError):
                    await other.ensure_topic(topic, 1)
                    await other.publish(topic, numbered(3))
                    break
        second, owner = await join(site, other, topic, "w0")
        await site.until(lambda: len(owner.owned) == 1, second)
        assert owner.owned[0].committed == 0
        assert [record.offset for record in await take(second, 3)] == [0, 1, 2]


class TestBroker:
    async def test_no_broker_is_unavailable_within_the_connect_timeout(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        bus = KafkaBus(TransportSettings(kafka=address, redis="redis://unused", connect_timeout=0.5))
        began = time.monotonic()
        with pytest.raises(Unavailable, match=address):
            await bus.open()
        assert time.monotonic() - began < 5
        assert not await bus.healthy()
        await bus.close()

    @pytest.mark.slow
    @pytest.mark.timeout(120)
    async def test_publisher_members_and_followers_survive_a_broker_restart(
        self, own_kafka: Broker, prefix: str
    ) -> None:
        site = KafkaSite(own_kafka.bootstrap, prefix)
        topic, catalogue = site.topic("restart"), site.topic("models")
        bus, other = await site.connect(), await site.connect()
        await bus.ensure_topic(topic, 2)
        await bus.ensure_topic(catalogue, 1, compacted=True)
        members = [await join(site, bus, topic, "w0"), await join(site, other, topic, "w1")]
        await balanced(site, members, 2)
        following = other.follow(catalogue)
        assert await anext(following) == []
        acknowledged = {(await bus.publish(topic, [OutRecord(b"before")])).partition: b"before"}
        got: list[Record] = [record for consumer, _ in members for record in await take(consumer, 1, 0.5)]
        assert len(got) == len(acknowledged)

        own_kafka.kill()
        assert not await bus.healthy()
        stranded = asyncio.gather(*(bus.publish(topic, numbered(1, n)) for n in range(2)), return_exceptions=True)
        assert await members[0][0].fetch(1, 0.2) == []
        await asyncio.to_thread(own_kafka.start)
        outcomes = await stranded
        sent = [
            record.value
            for record, outcome in zip(numbered(2), outcomes, strict=True)
            if not isinstance(outcome, Exception)
        ]
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes if isinstance(outcome, BaseException))
        async with asyncio.timeout(site.time_limit):
            while True:
                with contextlib.suppress(Unavailable):
                    await bus.publish(topic, [OutRecord(b"after")])
                    sent.append(b"after")
                    break
        await bus.publish(catalogue, [OutRecord(b"model", key=b"m/1")])
        after: list[bytes] = []
        async with asyncio.timeout(site.time_limit):
            while not set(sent) <= set(after):
                for consumer, _ in members:
                    after += values(await consumer.fetch(10, 0.2))
            assert values(await anext(following)) == [b"model"]
            while True:
                with contextlib.suppress(Unavailable):
                    for consumer, owner in members:
                        await consumer.commit({number: entry.committed for number, entry in owner.owned.items()})
                    break
        assert await bus.healthy()
        await following.aclose()
        await site.close()


@pytest.fixture
def secured(kafka_installation: Installation, tmp_path: Path) -> Iterator[tuple[Broker, str, str]]:
    """A broker with a TLS and a SASL-over-TLS listener beside the plain one: (broker, TLS address, SASL address)."""
    ports = dict(zip(("PLAINTEXT", "CONTROLLER", "TLS", "LOGIN"), (free_port() for _ in range(4)), strict=True))
    addresses = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    keystore = tmp_path / "keystore.pem"
    keystore.write_text((TLS / "server.key").read_text() + (TLS / "server.pem").read_text())
    properties = {
        "listeners": ",".join(addresses.values()),
        "advertised.listeners": ",".join(address for name, address in addresses.items() if name != "CONTROLLER"),
        "controller.quorum.voters": f"1@127.0.0.1:{ports['CONTROLLER']}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,LOGIN:SASL_SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": (
            'org.apache.kafka.common.security.plain.PlainLoginModule required user_fleet="s3cret";'
        ),
    }
    with Broker(
        tmp_path / "secured",
        port=ports["PLAINTEXT"],
        properties=properties,
        installed=kafka_installation,
    ) as broker:
        yield broker, f"127.0.0.1:{ports['TLS']}", f"127.0.0.1:{ports['LOGIN']}"


async def round_trip(site: KafkaSite, name: str) -> None:
    """Create, publish, join, take, commit, follow: every kind of connection."""
    bus, topic = await site.connect(), site.topic(name)
    await bus.ensure_topic(topic, 1)
    await bus.publish(topic, numbered(2))
    consumer, owner = await join(site, bus, topic, "w0")
    await site.until(lambda: len(owner.owned) == 1, consumer)
    assert len(await take(consumer, 2)) == 2
    await consumer.commit({0: 2})
    following = bus.follow(topic)
    assert len(await anext(following)) == 2
    await following.aclose()
    await bus.evict(topic, ["w0"])
    assert await bus.healthy()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_tls_and_sasl_are_passed_through(
    secured: tuple[Broker, str, str], prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, tls, login = secured
    trust = {"ssl_cafile": str(TLS / "ca.pem")}
    password = {"sasl_mechanism": "PLAIN", "sasl_plain_username": "fleet", "sasl_plain_password": "s3cret"}
    caplog.set_level("DEBUG")

    good = KafkaSite(tls, prefix, security={"security_protocol": "SSL", **trust})
    await round_trip(good, "tls")
    await good.close()
    known = KafkaSite(login, prefix, security={"security_protocol": "SASL_SSL", **trust, **password})
    await round_trip(known, "sasl")
    await known.close()

    stranger = {"security_protocol": "SASL_SSL", **trust, **password, "sasl_plain_password": "wr0ng"}
    for address, security in ((tls, {"security_protocol": "SSL"}), (login, stranger)):
        settings = TransportSettings(
            kafka=address, redis="redis://unused", connect_timeout=1.0, kafka_security=security
        )
        bus = KafkaBus(settings)
        with pytest.raises(Unavailable) as caught:
            await bus.open()
        await bus.close()
        assert address in caught.value.message
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text
