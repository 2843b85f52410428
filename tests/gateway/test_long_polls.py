"""Long polls: they are counted, and end with their connection."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.admission.admission import Admission, Limits
from protocol.errors import Exhausted
from tests.gateway.fleet import Running, Site, add_sub, raw_request, read_response, until


async def accepted(gateway: Running) -> str:
    answer = await gateway.infer(add_sub(), prefer="respond-async")
    assert answer.status_code == 202
    return str(answer.json()["location"])


async def test_a_long_poll_whose_client_has_gone_ends(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    location = await accepted(gateway)
    service = gateway.gateway.service
    before = len(service.completion.pending)
    connected = [await gateway.connect() for _ in range(3)]
    for _, writer in connected:
        writer.write(raw_request(b"", path=f"{location}?wait_s=50", method="GET"))
    await until(lambda: service.admission.polls == 3)
    await until(lambda: len(service.completion.pending) == before + 3)

    for _, writer in connected:
        writer.close()

    await until(lambda: service.admission.polls == 0)
    await until(lambda: len(service.completion.pending) == before)
    worker.open.set()
    assert (await gateway.get(f"{location}?wait_s=10")).status_code == 200


async def test_one_long_poll_too_many_is_429_and_others_go_on(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(max_long_polls=2)
    location = await accepted(gateway)
    polls = [asyncio.ensure_future(gateway.get(f"{location}?wait_s=20")) for _ in range(2)]
    await until(lambda: gateway.gateway.service.admission.polls == 2)

    refused = await gateway.get(f"{location}?wait_s=20")
    standing = await gateway.get(location)
    worker.open.set()

    assert (refused.status_code, "long polls" in refused.json()["error"]) == (429, True)
    assert standing.status_code == 202
    assert [answer.status_code for answer in await asyncio.gather(*polls)] == [200, 200]
    assert gateway.gateway.service.admission.polls == 0


async def test_a_request_behind_a_long_poll_is_answered_after_it(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    location = await accepted(gateway)
    reader, writer = await gateway.connect()
    poll = raw_request(b"", path=f"{location}?wait_s=20", method="GET")
    writer.write(poll + raw_request(b"", path="/v2/health/live", method="GET"))
    await until(lambda: gateway.gateway.service.admission.polls == 1)
    worker.open.set()

    answers = [await read_response(reader) for _ in range(2)]
    assert [answer.body == b'{"live":true}' for answer in answers] == [False, True]
    writer.close()


def test_polls_are_counted_once_whatever_ends_them() -> None:
    admission = Admission(Limits(0, 0, 0, polls=1))
    with contextlib.suppress(KeyError), admission.poll():
        with pytest.raises(Exhausted), admission.poll():
            pass
        assert admission.polls == 1
        raise KeyError
    with admission.poll():
        assert admission.polls == 1
    assert admission.polls == 0
