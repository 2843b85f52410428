"""What is logged while Kafka is unreachable and when it returns, on a real broker."""

from __future__ import annotations

import asyncio
import logging

import pytest

from infra.local.kafka import Broker
from protocol.runtime import outages
from tests.transport.bus_site import Owner
from tests.transport.test_kafka import KafkaSite

pytestmark = pytest.mark.servers


async def test_a_kafka_that_is_away_is_one_line_every_few_seconds_and_one_when_it_is_back(
    own_kafka: Broker, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    site, hush = KafkaSite(own_kafka.bootstrap, prefix), outages.Hush(caplog.handler)
    caplog.handler.addFilter(hush)

    def said(by: str) -> list[str]:
        mine = [record for record in caplog.records if record.name.startswith(by) and record.levelno >= logging.WARNING]
        return [record.getMessage() for record in mine]

    try:
        bus, topic, owner = await site.connect(), site.topic("away"), Owner()
        await bus.ensure_topic(topic, 1)
        consumer = await bus.subscribe(topic, topic, "w0", owner)
        await site.until(lambda: bool(owner.owned), consumer)
        caplog.clear()
        own_kafka.kill()
        await site.until(lambda: bool(said(outages.log.name)))
        await asyncio.sleep(5.0)  # in which aiokafka complains a dozen times
        await asyncio.to_thread(own_kafka.start)
        await site.until(lambda: "answers again" in said(outages.log.name)[-1])
        away, still, *_, back = said(outages.log.name)
        assert said("aiokafka") == []
        assert f"{own_kafka.bootstrap} does not answer" in away
        assert f"{own_kafka.bootstrap} has not answered for " in still
        assert f"{own_kafka.bootstrap} answers again" in back
    finally:
        caplog.handler.removeFilter(hush)
        await site.close()
