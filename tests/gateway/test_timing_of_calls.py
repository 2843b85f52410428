"""The times of real calls: asynchronous, repeated, attached, copied, after a clock was set; over HTTP and gRPC."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from gateway.ids import fingerprint, keyed_id
from gateway.timing import STAGES
from penstock.client.timing import parse_timing, sentence
from protocol.naming import ref
from protocol.ports import Claim, ClaimState
from tests.gateway.fleet import Running, Site, add_sub, until
from tests.gateway.rpc.stub import INFER, infer_request, stub
from tests.gateway.test_alias_calls import put, shadow_worker, two_versions
from tests.gateway.test_recovery import AT_ONCE, answered_and_lost, kept

SECOND = 1_000_000
HOUR = 3600.0
KEYED = {"idempotency_key": "order-17"}
RAN = STAGES[:-1]


def stages(text: str) -> dict[str, int]:
    """The stages in a header: in order, and within ten seconds, as is everything that these tests do."""
    fields = dict(part.split("=", 1) for part in text.split(", "))
    told = {name: int(fields[name]) for name in STAGES if name in fields}
    assert list(told.values()) == sorted(told.values())
    assert all(0 <= at < 10 * SECOND for at in told.values()), text
    assert sentence(parse_timing(text))
    return told


async def sets_the_clock(gateway: Running, seconds: float) -> None:
    """The store's clock is set; the gateway notices."""
    clock = gateway.gateway.service.clock
    aim = clock() + seconds

    async def store_time() -> float:
        return clock() + (aim - clock() if abs(aim - clock()) > 1 else 0.0)

    before = clock.stepped
    await clock.resync(store_time)
    assert clock.stepped - before == pytest.approx(seconds, abs=1)


async def waits(gateway: Running, calls: int = 1) -> None:
    await until(lambda: len(gateway.gateway.service.completion.pending) == calls)


async def test_an_asynchronous_answer_has_no_wake_however_late_it_is_read(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    location = (await gateway.infer(prefer="respond-async")).headers["location"]
    first = await gateway.get(location, params={"wait_s": "10"})
    await sets_the_clock(gateway, HOUR)  # it is an hour later

    again = await gateway.get(location)

    assert tuple(stages(first.headers["penstock-timing"])) == RAN
    assert again.headers["penstock-timing"] == first.headers["penstock-timing"]
    assert parse_timing(again.headers["penstock-timing"]).delivered is False


@pytest.mark.parametrize("form", [{}, {"prefer": "respond-async"}])
async def test_a_repeated_key_has_the_times_of_the_run_and_none_of_its_own(fleet: Site, form: dict[str, str]) -> None:
    worker = await fleet.worker()
    gateway, other = await fleet.gateway(), await fleet.gateway()
    first = await gateway.infer(**KEYED)
    for each in (gateway, other):
        await sets_the_clock(each, HOUR)

    again = [await each.infer(**KEYED, **form) for each in (gateway, other)]

    ran = stages(first.headers["penstock-timing"])
    assert tuple(ran) == STAGES
    for answer in again:
        assert answer.status_code == 200
        assert stages(answer.headers["penstock-timing"]) == {name: at for name, at in ran.items() if name != "wake"}
    assert len(worker.ran) == 1
    assert gateway.metric("penstock_gateway_wake_age_seconds_count") == 1
    assert gateway.metric("penstock_gateway_wake_age_seconds_sum") < 10
    assert other.metric("penstock_gateway_wake_age_seconds_count") == 0


async def test_a_call_that_attaches_to_a_run_does_not_take_its_wait_for_its_own(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    first = asyncio.ensure_future(gateway.infer(**KEYED))
    await waits(gateway)
    second = asyncio.ensure_future(gateway.infer(**KEYED))
    await waits(gateway, 2)
    worker.open.set()

    assert tuple(stages((await first).headers["penstock-timing"])) == STAGES
    assert tuple(stages((await second).headers["penstock-timing"])) == RAN


@pytest.mark.parametrize("seconds", [-HOUR, -2.0, 2.0, HOUR])
async def test_a_clock_that_is_set_while_a_call_waits_changes_no_time(fleet: Site, seconds: float) -> None:
    """The worker of this fleet keeps the old clock: what it stamped is true, and kept."""
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    call = asyncio.ensure_future(gateway.infer())
    await waits(gateway)
    await sets_the_clock(gateway, seconds)
    worker.open.set()

    assert tuple(stages((await call).headers["penstock-timing"])) == STAGES


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
async def test_a_worker_whose_clock_is_wrong_loses_its_stages_only(fleet: Site, seconds: float) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    await sets_the_clock(gateway, seconds)

    told = stages((await gateway.infer()).headers["penstock-timing"])

    assert tuple(told) == ("publish", "wake")
    sums = gateway.metric("penstock_gateway_wake_age_seconds_sum")
    assert 0 <= sums <= HOUR + 10


async def test_a_claim_that_is_taken_over_has_the_times_of_its_new_record(fleet: Site) -> None:
    """A gateway died between its claim and its publication, a long time ago."""
    await fleet.worker()
    gateway = await fleet.gateway(claim_lease=0.05)
    body = add_sub()
    request_ref = ref("-", keyed_id("-", "add_sub", "", KEYED["idempotency_key"]))
    mark = fingerprint(orjson.dumps(body), "")
    claim = Claim(request_ref, mark, "penstock:gateway:dead", 0.05, 60.0, "add_sub", "1", 1.0)
    assert (await (await fleet.transport()).results.claim(claim)).state is ClaimState.FRESH

    answer = await gateway.infer(body, **KEYED)

    assert tuple(stages(answer.headers["penstock-timing"])) == STAGES


async def test_an_answer_that_was_lost_and_made_again_by_another_gateway(fleet: Site) -> None:
    worker = await kept(fleet)
    one, other = await fleet.gateway(**AT_ONCE), await fleet.gateway(**AT_ONCE)
    location, _ = await answered_and_lost(fleet, one, worker)

    answer = await other.get(location, params={"wait_s": "10"})

    assert len(worker.ran) == 2
    assert tuple(stages(answer.headers["penstock-timing"])) == RAN


async def test_canaries_and_calls_that_are_copied_for_a_shadow_have_their_own_times(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)
    shadow = await shadow_worker(fleet, "4", 0.0)
    await put(gateway, "/prod", {"versions": {"3": 1}, "shadow": {"version": "4"}})
    await put(gateway, "/canary", {"versions": {"3": 1, "4": 1}})

    answers = [await gateway.infer(add_sub(), f"add_sub@{alias}") for alias in ("prod", "canary") for _ in range(4)]

    for answer in answers:
        assert tuple(stages(answer.headers["penstock-timing"])) == STAGES
    await until(lambda: bool(shadow.ran))


async def test_grpc_tells_the_same(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:

        async def timing() -> str:
            call = client.channel.unary_unary(INFER)(
                infer_request().SerializeToString(), metadata=(("idempotency-key", "k"),)
            )
            await call
            return str(dict(await call.trailing_metadata())["penstock-timing"])

        first = await timing()
        await sets_the_clock(running, HOUR)
        again = await timing()

    assert tuple(stages(first)) == STAGES
    assert stages(again) == {name: at for name, at in stages(first).items() if name != "wake"}
