"""What every result store must do with keyed and asynchronous calls: a part of `contract_results.ResultsContract`."""

from __future__ import annotations

import dataclasses
import time

from protocol.ports import NOWHERE, Claimed, ClaimState, FinishOutcome, RequestState, Terminal, Wake
from tests.transport.results_site import ALREADY, NOT_TEXT, WRITTEN, ResultsSuite, Site, Store, new_claim, new_ref


class ClaimsContract(ResultsSuite):
    """Inherited by `ResultsContract`."""

    async def test_the_first_claim_is_fresh_and_the_second_attaches(self, site: Site) -> None:
        one, two, ref = await self.gateway(site, "g1"), await self.gateway(site, "g2"), new_ref()
        assert (await one.store.claim(new_claim(ref, one.channel))).state is ClaimState.FRESH
        await one.store.confirm(ref, published=True)
        assert (await two.store.claim(new_claim(ref, two.channel))).state is ClaimState.ATTACHED
        worker = await site.connect()
        assert await worker.finish([Terminal(ref, b"r", one.channel)]) == [WRITTEN]
        await site.until(lambda: bool(one.wakes) and bool(two.wakes))
        assert one.wakes == [Wake(ref, b"r")]
        assert two.wakes == [Wake(ref, b"r")]

    async def test_a_claim_of_what_is_done_brings_the_result(self, site: Site) -> None:
        one, two, ref = await self.gateway(site, "g1"), await self.gateway(site, "g2"), new_ref()
        await one.store.claim(new_claim(ref, one.channel))
        await one.store.confirm(ref, published=True)
        await one.store.finish([Terminal(ref, NOT_TEXT, one.channel)])
        claimed = await two.store.claim(new_claim(ref, two.channel))
        assert (claimed.state, claimed.payload) == (ClaimState.DONE, NOT_TEXT)

    async def test_the_same_key_with_another_body_is_refused_at_every_stage(self, site: Site, store: Store) -> None:
        ref = new_ref()
        wrong = new_claim(ref, fingerprint="f2")
        await store.claim(new_claim(ref))
        assert (await store.claim(wrong)).state is ClaimState.MISMATCH
        await store.confirm(ref, published=True)
        assert (await store.claim(wrong)).state is ClaimState.MISMATCH
        await store.start([ref], "w1", 60.0)
        assert (await store.claim(wrong)).state is ClaimState.MISMATCH
        await store.finish([Terminal(ref, b"r", retriable=True)])
        assert (await store.claim(wrong)).state is ClaimState.MISMATCH
        assert (await self.state(store, ref)).payload == b"r"

    async def test_a_mismatch_is_not_woken(self, site: Site, store: Store) -> None:
        one, two, ref = await self.gateway(site, "g1"), await self.gateway(site, "g2"), new_ref()
        await one.store.claim(new_claim(ref, one.channel))
        await two.store.claim(new_claim(ref, two.channel, fingerprint="f2"))
        await store.finish([Terminal(ref, b"r")])
        await site.until(lambda: bool(one.wakes))
        marker = new_ref()
        await store.finish([Terminal(marker, b"m", two.channel)])
        await site.until(lambda: bool(two.wakes))
        assert two.wakes == [Wake(marker, b"m")]

    async def test_an_unconfirmed_claim_lapses_with_its_lease(self, site: Site) -> None:
        """The gateway died between claim and publish: the next one publishes."""
        one, two, ref = await self.gateway(site, "g1"), await self.gateway(site, "g2"), new_ref()
        assert (await one.store.claim(new_claim(ref, one.channel, lease=0.4))).state is ClaimState.FRESH

        async def taken_over() -> bool:
            claimed = await two.store.claim(new_claim(ref, two.channel))
            assert claimed.state in {ClaimState.ATTACHED, ClaimState.FRESH}
            return claimed.state is ClaimState.FRESH

        assert not await taken_over()
        await site.until_true(taken_over)
        assert not await taken_over()
        await two.store.finish([Terminal(ref, b"r", two.channel)])
        await site.until(lambda: bool(one.wakes) and bool(two.wakes))
        assert (one.wakes, two.wakes) == ([Wake(ref, b"r")], [Wake(ref, b"r")])

    async def test_a_confirmed_claim_outlives_its_lease(self, site: Site, store: Store) -> None:
        ref = new_ref()
        await store.claim(new_claim(ref, lease=0.05))
        await store.confirm(ref, published=True)
        began = time.monotonic()
        await site.until(lambda: time.monotonic() - began > 0.15)
        assert (await store.claim(new_claim(ref))).state is ClaimState.ATTACHED

    async def test_a_running_request_outlives_its_lease(self, site: Site, store: Store) -> None:
        """The gateway died between publish and confirm; that a worker has it shows that it was published."""
        ref = new_ref()
        await store.claim(new_claim(ref, lease=0.05))
        await store.start([ref], "w1", 60.0)
        began = time.monotonic()
        await site.until(lambda: time.monotonic() - began > 0.15)
        assert (await store.claim(new_claim(ref))).state is ClaimState.ATTACHED

    async def test_a_failed_publish_releases_the_claim_at_once(self, store: Store) -> None:
        ref = new_ref()
        await store.claim(new_claim(ref))
        await store.confirm(ref, published=False)
        assert (await store.claim(new_claim(ref))).state is ClaimState.FRESH
        assert (await store.claim(new_claim(ref))).state is ClaimState.ATTACHED

    async def test_an_acknowledged_publish_is_not_undone_by_a_failed_one(self, store: Store) -> None:
        ref = new_ref()
        await store.claim(new_claim(ref))
        await store.confirm(ref, published=True)
        await store.confirm(ref, published=False)
        assert (await store.claim(new_claim(ref))).state is ClaimState.ATTACHED

    async def test_an_attached_caller_is_told_where_the_request_is(self, store: Store) -> None:
        ref = new_ref()
        await store.claim(new_claim(ref))
        assert await store.claim(new_claim(ref)) == Claimed(ClaimState.ATTACHED)
        await store.confirm(ref, True, (3, 41))
        assert await store.claim(new_claim(ref)) == Claimed(ClaimState.ATTACHED, None, True, (3, 41))
        await store.start([ref], "w1", 60.0)
        assert await store.claim(new_claim(ref)) == Claimed(ClaimState.ATTACHED, None, True, (3, 41))

    async def test_what_runs_and_whose_record_nobody_knows_may_be_published_again(
        self, site: Site, store: Store
    ) -> None:
        ref, known = new_ref(), new_ref()
        for name in (ref, known):
            await store.claim(new_claim(name, lease=0.05))
            await store.start([name], "w1", 60.0)
        await store.confirm(known, True, (0, 5))
        began = time.monotonic()
        await site.until(lambda: time.monotonic() - began > 0.15)
        assert await store.claim(new_claim(ref)) == Claimed(ClaimState.ATTACHED, None, True, None)
        assert await store.claim(dataclasses.replace(new_claim(ref), lost=NOWHERE)) == Claimed(ClaimState.FRESH)
        again = await store.claim(dataclasses.replace(new_claim(known), lost=NOWHERE))
        assert again == Claimed(ClaimState.ATTACHED, None, True, (0, 5))

    async def test_a_lost_end_is_made_up_for_by_one_caller_at_a_time(self, site: Site, store: Store) -> None:
        """A caller that knows the record was finished gets the claim anew, once per existing record."""
        ref, old, new = new_ref(), (0, 5), (1, 2)
        await store.claim(new_claim(ref, lease=0.4))
        await store.start([ref], "w1", 60.0)
        await store.confirm(ref, True, old)
        lost = dataclasses.replace(new_claim(ref), lost=old)

        async def taken_over() -> bool:
            claimed = await store.claim(lost)
            assert claimed in (Claimed(ClaimState.ATTACHED, None, True, old), Claimed(ClaimState.FRESH))
            return claimed.state is ClaimState.FRESH

        assert not await taken_over(), "the lease of whoever published it may still run"
        await site.until_true(taken_over)
        assert not await taken_over()
        assert (await store.claim(new_claim(ref))).state is ClaimState.ATTACHED
        await store.confirm(ref, False)
        assert await taken_over()
        await store.confirm(ref, True, new)
        assert await store.claim(lost) == Claimed(ClaimState.ATTACHED, None, True, new)
        await store.finish([Terminal(ref, b"r")])
        assert await store.claim(dataclasses.replace(lost, lost=new)) == Claimed(ClaimState.DONE, b"r")

    async def test_confirming_what_is_over_or_unknown_changes_nothing(self, store: Store) -> None:
        ref, unknown = new_ref(), new_ref()
        await store.claim(new_claim(ref))
        await store.finish([Terminal(ref, b"r")])
        for published in (True, False):
            await store.confirm(ref, published=published)
            await store.confirm(unknown, published=published)
        assert (await self.state(store, ref)).payload == b"r"
        assert await store.look([unknown]) == [None]
        assert (await store.claim(new_claim(unknown))).state is ClaimState.FRESH

    async def test_after_a_retriable_end_the_same_key_runs_again(self, site: Site) -> None:
        one, two, ref = await self.gateway(site, "g1"), await self.gateway(site, "g2"), new_ref()
        await one.store.claim(new_claim(ref, one.channel))
        await one.store.start([ref], "w1", 60.0)
        await one.store.finish([Terminal(ref, b"cancelled", one.channel, retriable=True)])
        await site.until(lambda: one.wakes == [Wake(ref, b"cancelled")])
        assert (await two.store.claim(new_claim(ref, two.channel, accepted=5.0))).state is ClaimState.FRESH
        assert await self.state(two.store, ref) == RequestState("queued", None, "m", "3", 5.0)
        assert (await one.store.claim(new_claim(ref, one.channel))).state is ClaimState.ATTACHED
        assert await two.store.finish([Terminal(ref, b"result", two.channel)]) == [WRITTEN]
        await site.until(lambda: len(one.wakes) == 2 and len(two.wakes) == 1)
        assert (one.wakes[1], two.wakes[0]) == (Wake(ref, b"result"), Wake(ref, b"result"))
        assert (await two.store.claim(new_claim(ref))).state is ClaimState.DONE

    async def test_what_is_left_of_an_earlier_run_does_not_end_the_next(self, site: Site) -> None:
        gateway, ref = await self.gateway(site, "g1"), new_ref()
        store = gateway.store
        await store.claim(new_claim(ref, gateway.channel, accepted=5.0))
        old = Terminal(ref, b"cancelled", gateway.channel, retriable=True, accepted=5.0)
        assert await store.finish([old]) == [WRITTEN]
        assert (await store.claim(new_claim(ref, gateway.channel, accepted=6.0))).state is ClaimState.FRESH
        assert await store.finish([old]) == [FinishOutcome.OLDER_ATTEMPT]
        assert (await self.state(store, ref)).state == "queued"
        result = dataclasses.replace(old, payload=b"result", retriable=False)
        assert await store.finish([result]) == [WRITTEN], "the answer of the same body is as good from the older record"
        assert await store.finish([old]) == [ALREADY]

    async def test_a_final_failure_is_not_run_again(self, store: Store) -> None:
        ref = new_ref()
        await store.claim(new_claim(ref))
        await store.finish([Terminal(ref, b"model failed")])
        claimed = await store.claim(new_claim(ref))
        assert (claimed.state, claimed.payload) == (ClaimState.DONE, b"model failed")

    async def test_who_attaches_after_a_start_is_woken_too(self, site: Site, store: Store) -> None:
        gateways = [await self.gateway(site, f"g{n}") for n in range(3)]
        ref = new_ref()
        await gateways[0].store.claim(new_claim(ref, gateways[0].channel))
        assert await store.start([ref], "w1", 60.0) == [1]
        assert (await gateways[1].store.claim(new_claim(ref, gateways[1].channel))).state is ClaimState.ATTACHED
        await gateways[0].store.confirm(ref, published=True)
        assert await store.start([ref], "w2", 60.0) == [2]
        assert (await gateways[2].store.claim(new_claim(ref, gateways[2].channel))).state is ClaimState.ATTACHED
        assert await store.finish([Terminal(ref, b"r", gateways[0].channel)]) == [WRITTEN]
        await site.until(lambda: all(gateway.wakes for gateway in gateways))
        assert [gateway.wakes for gateway in gateways] == [[Wake(ref, b"r")]] * 3

    async def test_one_gateway_that_claims_twice_is_woken_once(self, site: Site) -> None:
        gateway, ref, marker = await self.gateway(site), new_ref(), new_ref()
        for _ in range(3):
            await gateway.store.claim(new_claim(ref, gateway.channel))
        await gateway.store.finish([Terminal(ref, b"r", gateway.channel)])
        await gateway.store.finish([Terminal(marker, b"m", gateway.channel)])
        await site.until(lambda: gateway.woken(marker) == 1)
        assert gateway.wakes == [Wake(ref, b"r"), Wake(marker, b"m")]

    async def test_a_refused_write_wakes_everybody_in_the_stream(self, site: Site, store: Store) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        await gateway.store.claim(new_claim(ref, gateway.channel))
        await store.finish([Terminal(ref, b"r")])
        await site.until(lambda: len(gateway.wakes) == 1)
        assert await store.finish([Terminal(ref, b"late")]) == [ALREADY]
        await site.until(lambda: len(gateway.wakes) == 2)
        assert gateway.wakes == [Wake(ref, b"r"), Wake(ref, None)]
