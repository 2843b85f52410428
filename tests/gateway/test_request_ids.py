"""Ids, handles and versions in URLs: any text, and who can create them."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import pytest

from gateway.handle import sign
from protocol.codec import encode_reply
from protocol.heartbeat_codec import SECRET_KEY
from protocol.messages import InferReply
from protocol.naming import ref
from protocol.ports import Claim, OutRecord, Terminal
from tests.gateway.fleet import NAMES, Site
from tests.gateway.test_requests import accepted


@pytest.mark.parametrize(
    ("request_id", "shown"),
    [
        ("penstock.infer.any.1-0-17-1700000000000", None),
        ("orders/2026.17", None),
        ("abc." + "x" * 22, None),
        ("a%b c", None),
        ("Łódź", "%C5%81%C3%B3d%C5%BA"),
        ("a\x1b[31m\tb", "a%1B%5B31m%09b"),
        (" padded ", "%20padded%20"),
    ],
)
async def test_the_results_of_producers_are_found_by_any_id(fleet: Site, request_id: str, shown: str | None) -> None:
    gateway = await fleet.gateway()
    store = (await fleet.transport()).results
    request_ref = ref("-", request_id)
    await store.claim(Claim(request_ref, "f", "", 10.0, 60.0, "any", "1", 1.0))
    url = f"/v2/requests/{quote(request_id, safe='')}"

    waiting = await gateway.get(url)
    await store.finish([Terminal(request_ref, encode_reply(InferReply("any", "1", outputs=())))])
    done, cancelled = await gateway.get(url), await gateway.delete(url)

    assert [each.status_code for each in (waiting, done, cancelled)] == [202, 200, 200]
    assert waiting.json()["id"] == cancelled.json()["id"] == request_id
    assert {each.headers["penstock-request-id"] for each in (waiting, done, cancelled)} == {shown or request_id}


async def test_what_every_caller_knows_signs_no_handle(fleet: Site) -> None:
    await fleet.worker()
    for settings, headers in (({}, {}), ({"api_key": "known"}, {"x_api_key": "known"})):
        gateway = await fleet.gateway(**settings)
        location, _ = await accepted(gateway, **headers)
        given = gateway.gateway.service.keys.verify(location.rpartition("/")[2])
        for known in ("", "known"):
            key = hashlib.blake2b(known.encode(), digest_size=32, person=b"penstock-handle").digest()
            forged = await gateway.get(f"/v2/requests/{sign(given, key)}", headers={"x-api-key": "known"})
            assert forged.status_code in (400, 404)


async def test_gateways_without_a_secret_agree_on_one_that_survives_them(fleet: Site) -> None:
    await fleet.worker()
    first = await fleet.gateway()
    location, request_id = await accepted(first)
    await first.stop()

    for number in range(2):
        answer = await (await fleet.gateway(gateway=f"later{number}")).get(location, params={"wait_s": "10"})
        assert (answer.status_code, answer.headers["penstock-request-id"]) == (200, request_id)
    assert await kept_secrets(fleet) == [32]


async def test_a_secret_that_is_none_is_not_agreed_on(fleet: Site) -> None:
    await fleet.worker()
    bus = (await fleet.transport()).bus
    await bus.publish(NAMES.catalogue_topic, [OutRecord(b"short", (), SECRET_KEY)])

    location, _ = await accepted(await fleet.gateway())

    assert await kept_secrets(fleet) == [5, 32]
    assert (await (await fleet.gateway()).get(location)).status_code in (200, 202)


async def kept_secrets(fleet: Site) -> list[int]:
    """The lengths of the secrets that the catalogue's topic has."""
    found: list[int] = []
    async for records in (await fleet.transport()).bus.follow(NAMES.catalogue_topic):
        if not records:
            break
        found += [len(record.value) for record in records if record.key == SECRET_KEY]
    return found


@pytest.mark.parametrize("version", ["9" * 5000, "9" * 20, "-1", "1.0", "one", "٣", "0x1", "1%20", "+1"])
@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/stats", "/infer"])
async def test_a_version_that_is_none_is_404(fleet: Site, version: str, suffix: str) -> None:
    gateway = await fleet.gateway()
    path = f"/v2/models/add_sub/versions/{quote(version, safe='%')}{suffix}"

    answer = await (gateway.post if suffix == "/infer" else gateway.get)(path)

    assert answer.status_code == 404


async def test_zeros_in_front_of_a_version_mean_nothing(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    for suffix in ("", "/ready", "/config", "/stats"):
        assert (await gateway.get(f"/v2/models/add_sub/versions/0001{suffix}")).status_code == 200
    assert (await gateway.get("/v2/models/add_sub/versions/000/ready")).status_code == 404
