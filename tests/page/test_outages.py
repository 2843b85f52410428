"""An operator with an incident: the broker is away, the store is away, a worker drains."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from infra.local.kafka import Broker
from infra.local.redis import RedisServer
from tests.integration.fleet import fleet
from tests.page.browser import Browser
from tests.page.conftest import write_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.servers]


def test_what_the_page_says_while_parts_are_away(
    browser: Browser, own_kafka: Broker, own_redis: RedisServer, tmp_path: Path
) -> None:
    repository = write_models(tmp_path / "models", "shout", "slow")
    with fleet(own_kafka.bootstrap, own_redis.url, f"o{time.time_ns() % 10**9}", tmp_path, repository) as running:
        gateway = running.add_gateway()
        running.add_worker()
        running.wait_ready(models=2)
        page = browser.open(f"{gateway.url}/#model=shout")
        page.wait_text("#worker-rows", "worker-0")
        page.click("#send")
        page.wait_text("#outputs", "<b>hello</b>")

        own_kafka.kill()
        assert "calls are refused" in page.wait_text(
            "#attention", "This gateway is not ready: the broker does not answer"
        )
        assert page.text("#total-workers") == "\u2013"
        assert page.run("document.querySelector('#no-workers').hidden")
        page.run("document.querySelector('#sending').textContent = ''")
        page.click("#send")
        assert "the request was not accepted" in page.wait_text("#outputs", "UNAVAILABLE")
        page.wait("document.querySelector('#total-waiting').innerText === '\\u2013'")
        own_kafka.start()
        page.wait("document.querySelector('#attention').hidden")
        page.wait("document.querySelector('#total-workers').innerText === '1'")

        own_redis.kill()
        page.wait_text("#connection", "The server cannot tell: Redis at ")
        own_redis.start()
        page.wait_text("#connection", "Live")
        page.wait("document.querySelector('#total-workers').innerText === '1'")
        page.wait("/^[0-9]+$/.test(document.querySelector('#total-waiting').innerText)")  # it is known again
        assert page.problems() == []
        page.close()


def test_a_worker_that_drains_is_marked(browser: Browser, kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> None:
    repository = write_models(tmp_path / "models", "slow")
    with fleet(kafka_bootstrap, redis_url, f"d{time.time_ns() % 10**9}", tmp_path, repository) as running:
        gateway = running.add_gateway()
        worker = running.add_worker()
        running.wait_ready(models=1)
        page = browser.open(f"{gateway.url}/#model=slow")
        page.wait_text("#worker-rows", "worker-0")
        page.fill("#inputs textarea", "6")
        page.click("#send")
        page.wait("!document.querySelector('#cancel').hidden")
        page.pump(1.0)  # the worker has it
        worker.process.terminate()
        page.wait_text("#worker-rows", "draining")
        page.wait_text("#sending", "Answered in")
        page.wait_text("#no-workers", "No worker is live")
        assert page.problems() == []
        page.close()
