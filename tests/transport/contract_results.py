"""What every result store and directory must do. `tests/transport/test_*.py` inherit `ResultsContract` and define its `site`."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from protocol.codec import decode_request, encode_reply, encode_request, payload_bytes
from protocol.messages import (
    ControlProgress,
    Heartbeat,
    InferReply,
    InferRequest,
    ModelLoad,
    ModelState,
    Outcome,
    Pulse,
)
from protocol.ports import Cancel, ClaimState, RequestState, Terminal, Wake
from protocol.tensors import Tensor
from tests.transport.contract_claims import ClaimsContract
from tests.transport.contract_totals import TotalsContract
from tests.transport.results_site import (
    ALREADY,
    CALL_LIMIT,
    INLINE_LIMIT,
    NOT_TEXT,
    SHORT_TTL,
    WRITTEN,
    Site,
    Store,
    new_claim,
    new_ref,
)

__all__ = ["ResultsContract", "Site", "Store", "new_claim", "new_ref"]


class ResultsContract(ClaimsContract, TotalsContract):
    """Inherit, and define the fixture `site`."""

    # --- answering ---------------------------------------------------------------------------------------------------

    async def test_the_first_terminal_wins(self, site: Site, store: Store) -> None:
        ref, other = new_ref(), await site.connect()
        assert await store.finish([Terminal(ref, b"first")]) == [WRITTEN]
        assert await other.finish([Terminal(ref, b"second")]) == [ALREADY]
        assert await store.finish([Terminal(ref, b"third", retriable=True)]) == [ALREADY]
        assert await self.state(other, ref) == RequestState("done", b"first")

    async def test_each_answer_of_a_batch_has_its_own_outcome(self, store: Store) -> None:
        old, new, twice = new_ref(), new_ref(), new_ref()
        await store.finish([Terminal(old, b"old")])
        batch = [Terminal(new, b"new"), Terminal(old, b"late"), Terminal(twice, b"one"), Terminal(twice, b"two")]
        assert await store.finish(batch) == [WRITTEN, ALREADY, WRITTEN, ALREADY]
        assert [state and state.payload for state in await store.look([new, old, twice])] == [b"new", b"old", b"one"]

    async def test_racing_writers_agree_on_one_terminal(self, site: Site) -> None:
        stores, ref = [await site.connect() for _ in range(4)], new_ref()
        outcomes = await asyncio.gather(*(store.finish([Terminal(ref, b"%d" % n)]) for n, store in enumerate(stores)))
        assert sorted(outcome[0].value for outcome in outcomes) == [0, 1, 1, 1]
        winner = outcomes.index([WRITTEN])
        assert (await self.state(stores[0], ref)).payload == b"%d" % winner

    async def test_a_terminal_after_attempts_is_never_an_older_attempt(self, store: Store) -> None:
        ref = new_ref()
        assert await store.start([ref], "w1", 60.0) == [1]
        assert await store.start([ref], "w1", 60.0) == [1], "a call that is repeated begins nothing"
        assert await store.start([ref], "w2", 60.0) == [2]
        assert await store.start([ref], "w1", 60.0) == [3], "it came back from another worker"
        assert await store.finish([Terminal(ref, b"of attempt 1")]) == [WRITTEN]
        assert await store.finish([Terminal(ref, b"of attempt 2")]) == [ALREADY]

    async def test_payloads_are_bytes_not_text(self, site: Site) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        silent = new_ref()
        await gateway.store.finish([Terminal(ref, NOT_TEXT, gateway.channel), Terminal(silent, NOT_TEXT)])
        await site.until(lambda: bool(gateway.wakes))
        assert gateway.wakes == [Wake(ref, NOT_TEXT)]
        assert (await self.state(gateway.store, silent)).payload == NOT_TEXT

    async def test_refs_with_principals_are_names_like_any_other(self, site: Site) -> None:
        gateway = await self.gateway(site)
        ref = f"team%20a/{new_ref()}:x~1.%C3%A9"
        assert await gateway.store.finish([Terminal(ref, b"x", gateway.channel)]) == [WRITTEN]
        await site.until(lambda: bool(gateway.wakes))
        assert gateway.wakes == [Wake(ref, b"x")]

    async def test_nothing_asked_nothing_answered(self, store: Store) -> None:
        assert await store.finish([]) == []
        assert await store.start([], "w", 60.0) == []
        assert await store.look([]) == []
        await store.trim([])
        assert await store.look([new_ref()]) == [None]

    # --- waking ------------------------------------------------------------------------------------------------------

    async def test_a_batch_wakes_each_gateway_with_its_own(self, site: Site) -> None:
        one, two = await self.gateway(site, "g1"), await self.gateway(site, "g2")
        worker = await site.connect()
        mine, yours = [new_ref() for _ in range(5)], [new_ref() for _ in range(5)]
        answers = [Terminal(ref, ref.encode(), one.channel) for ref in mine]
        answers += [Terminal(ref, ref.encode(), two.channel) for ref in yours]
        await worker.finish(answers)
        await site.until(lambda: len(one.wakes) == 5 and len(two.wakes) == 5)
        assert one.wakes == [Wake(ref, ref.encode()) for ref in mine]
        assert two.wakes == [Wake(ref, ref.encode()) for ref in yours]

    async def test_the_wake_comes_after_the_terminal_is_there(self, site: Site) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        await gateway.store.finish([Terminal(ref, b"x" * (INLINE_LIMIT + 1), gateway.channel)])
        await site.until(lambda: bool(gateway.wakes))
        assert (await self.state(gateway.store, ref)).state == "done"

    @pytest.mark.parametrize(
        ("size", "inline"), [(0, True), (INLINE_LIMIT, True), (INLINE_LIMIT + 1, False), (1_000_000, False)]
    )
    async def test_small_results_come_along_and_large_ones_by_pointer(
        self, site: Site, size: int, inline: bool
    ) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        payload = NOT_TEXT[255:] * size
        await gateway.store.finish([Terminal(ref, payload, gateway.channel)])
        await site.until(lambda: bool(gateway.wakes))
        (wake,) = gateway.wakes
        if inline and size:
            assert wake.payload == payload
        elif not inline:
            assert wake.payload is None
            assert (await self.state(gateway.store, ref)).payload == payload

    async def test_an_answer_may_be_the_message_itself(self, site: Site) -> None:
        gateway, plain, keyed = await self.gateway(site), new_ref(), new_ref()
        reply = InferReply("m", "1", "label", (Tensor("Y", "INT8", (3,), b"abc"),), {"p": 1})
        await gateway.store.claim(new_claim(keyed))
        answers = [Terminal(plain, reply, gateway.channel), Terminal(keyed, reply, gateway.channel)]
        assert await gateway.store.finish(answers) == [WRITTEN, WRITTEN]
        await site.until(lambda: len(gateway.wakes) == 2)
        for wake in gateway.wakes:
            assert wake.payload is not None
            assert payload_bytes(wake.payload) == encode_reply(reply)
            assert wake.payload is reply or gateway.store.immediate is None
        kept = await self.state(gateway.store, keyed)
        assert kept.payload == encode_reply(reply), "kept without the batch that its tensors are views of"

    async def test_what_is_finished_at_once_is_there_at_once(self, site: Site) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        if gateway.store.immediate is None:
            return
        assert gateway.store.immediate.finish_now([Terminal(ref, b"r", gateway.channel)]) == [WRITTEN]
        assert gateway.wakes == [], "nobody is called back inside the call"
        assert (await self.state(gateway.store, ref)).state == "done"
        await site.until(lambda: gateway.woken(ref) == 1)

    async def test_one_call_sends_no_more_than_its_limit_inline(self, site: Site) -> None:
        gateway = await self.gateway(site)
        refs = [new_ref() for _ in range(40)]
        payloads = {ref: ref.encode() * 375 for ref in refs}
        await gateway.store.finish([Terminal(ref, payload, gateway.channel) for ref, payload in payloads.items()])
        await site.until(lambda: len(gateway.wakes) == 40)
        assert [wake.ref for wake in gateway.wakes] == refs
        inline = [wake for wake in gateway.wakes if wake.payload is not None]
        pointers = [wake.ref for wake in gateway.wakes if wake.payload is None]
        assert 0 < sum(len(wake.payload or b"") for wake in inline) <= CALL_LIMIT
        assert all(wake.payload == payloads[wake.ref] for wake in inline)
        assert [state and state.payload for state in await gateway.store.look(pointers)] == [
            payloads[ref] for ref in pointers
        ]

    async def test_a_refused_write_wakes_by_pointer(self, site: Site, store: Store) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        await store.finish([Terminal(ref, b"first")])
        assert await store.finish([Terminal(ref, b"second", gateway.channel)]) == [ALREADY]
        await site.until(lambda: bool(gateway.wakes))
        assert gateway.wakes == [Wake(ref, None)]
        assert (await self.state(gateway.store, ref)).payload == b"first"

    async def test_nobody_listening_is_no_error_and_keeps_the_result(self, site: Site, store: Store) -> None:
        ref = new_ref()
        assert await store.finish([Terminal(ref, b"kept", site.names.gateway_channel("gone"))]) == [WRITTEN]
        assert (await self.state(store, ref)).payload == b"kept"

    async def test_a_channel_is_silent_after_unlisten(self, site: Site) -> None:
        gateway, other = await self.gateway(site, "g1"), await self.gateway(site, "g2")
        await gateway.store.unlisten(gateway.channel)
        await gateway.store.unlisten(gateway.channel)
        quiet, heard = new_ref(), new_ref()
        await other.store.finish([Terminal(quiet, b"1", gateway.channel), Terminal(heard, b"2", other.channel)])
        await site.until(lambda: other.woken(heard) == 1)
        assert gateway.wakes == []
        assert (await self.state(other.store, quiet)).payload == b"1"

    async def test_listening_again_after_unlisten(self, site: Site) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        await gateway.store.unlisten(gateway.channel)
        await gateway.store.listen(gateway.channel, gateway.wakes.extend)
        await gateway.store.finish([Terminal(ref, b"1", gateway.channel)])
        await site.until(lambda: gateway.wakes == [Wake(ref, b"1")])

    # --- attempts and states -----------------------------------------------------------------------------------------

    async def test_start_numbers_the_attempts_and_tells_what_is_over(self, store: Store) -> None:
        claimed, plain, over = new_ref(), new_ref(), new_ref()
        await store.claim(new_claim(claimed))
        await store.finish([Terminal(over, b"r")])
        assert await store.start([claimed, plain, over], "w1", 60.0) == [1, 1, 0]
        assert await store.start([over, plain, claimed], "w2", 60.0) == [0, 2, 2]
        assert (await self.state(store, over)).payload == b"r"

    async def test_the_states_of_a_request(self, site: Site, store: Store) -> None:
        ref, other = new_ref(), await site.connect()
        claim = new_claim(ref, site.names.gateway_channel("g1"))
        await store.claim(claim)
        queued = RequestState("queued", None, "m", "3", pytest.approx(claim.accepted, abs=1e-6))  # type: ignore[arg-type]
        assert await self.state(other, ref) == queued
        await store.confirm(ref, published=True)
        assert await self.state(other, ref) == queued
        await other.claim(dataclasses.replace(claim, accepted=9.0))
        assert await self.state(other, ref) == queued
        await store.start([ref], "w1", 60.0)
        assert await self.state(other, ref) == dataclasses.replace(queued, state="running")
        await store.finish([Terminal(ref, b"r")])
        assert await self.state(other, ref) == dataclasses.replace(queued, state="done", payload=b"r")

    async def test_a_plain_call_that_was_started_is_running(self, store: Store) -> None:
        ref = new_ref()
        await store.start([ref], "w1", 60.0)
        assert await self.state(store, ref) == RequestState("running", None)

    async def test_looking_at_many_in_one_call_keeps_their_order(self, store: Store) -> None:
        refs = [new_ref() for _ in range(50)]
        await store.finish([Terminal(ref, ref.encode()) for ref in refs[::2]])
        states = await store.look(refs)
        assert [state and state.payload for state in states] == [
            ref.encode() if n % 2 == 0 else None for n, ref in enumerate(refs)
        ]

    # --- how long the fence lasts ------------------------------------------------------------------------------------

    async def test_trimming_drops_the_payload_and_keeps_the_fence(self, site: Site, store: Store) -> None:
        plain, claimed = new_ref(), new_ref()
        await store.claim(new_claim(claimed))
        await store.finish([Terminal(plain, b"x" * 2000), Terminal(claimed, b"y" * 2000)])
        await store.trim([plain, claimed, new_ref()])
        for ref in (plain, claimed):
            state = await self.state(store, ref)
            assert (state.state, state.payload) == ("done", b"")
            assert await store.finish([Terminal(ref, b"late")]) == [ALREADY]
            assert await store.start([ref], "w1", 60.0) == [0]
            assert (await self.state(store, ref)).payload == b""

    async def test_trimming_what_is_not_done_changes_nothing(self, site: Site) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        await gateway.store.claim(new_claim(ref, gateway.channel))
        await gateway.store.trim([ref])
        assert (await self.state(gateway.store, ref)).state == "queued"
        assert (await gateway.store.claim(new_claim(ref, fingerprint="f2"))).state is ClaimState.MISMATCH
        await gateway.store.finish([Terminal(ref, b"r")])
        await site.until(lambda: gateway.wakes == [Wake(ref, b"r")])

    async def test_a_plain_fence_lasts_its_ttl(self, site: Site, store: Store) -> None:
        short, long, channel = new_ref(), new_ref(), site.names.gateway_channel("g1")
        began = time.monotonic()
        await store.finish([Terminal(short, b"1", channel, ttl=SHORT_TTL), Terminal(long, b"1", channel, ttl=60.0)])
        assert await store.finish([Terminal(short, b"2", channel), Terminal(long, b"2", channel)]) == [ALREADY, ALREADY]
        await self.until_gone(site, store, short, began=began, ttl=SHORT_TTL)
        assert await store.finish([Terminal(short, b"3", channel), Terminal(long, b"3", channel)]) == [WRITTEN, ALREADY]
        assert [state and state.payload for state in await store.look([short, long])] == [b"3", b"1"]

    async def test_a_delivered_fence_lasts_its_ttl_too(self, site: Site) -> None:
        gateway, ref = await self.gateway(site), new_ref()
        began = time.monotonic()
        await gateway.store.finish([Terminal(ref, b"1", gateway.channel, ttl=SHORT_TTL)])
        assert await gateway.store.finish([Terminal(ref, b"2", gateway.channel)]) == [ALREADY]
        await self.until_gone(site, gateway.store, ref, began=began, ttl=SHORT_TTL)
        assert await gateway.store.finish([Terminal(ref, b"3", gateway.channel)]) == [WRITTEN]
        await site.until(lambda: len(gateway.wakes) == 3)
        assert gateway.wakes == [Wake(ref, b"1"), Wake(ref, None), Wake(ref, b"3")]

    async def test_a_claimed_result_is_kept_for_the_stores_ttl(self, site: Site) -> None:
        long, short, ref, other = await site.connect(60.0), await site.connect(SHORT_TTL), new_ref(), new_ref()
        await long.claim(new_claim(ref))
        await long.claim(new_claim(other))
        await long.finish([Terminal(ref, b"r", ttl=0.05)])
        began = time.monotonic()
        await short.finish([Terminal(other, b"r", ttl=60.0)])
        await self.until_gone(site, long, other, began=began, ttl=SHORT_TTL)
        assert (await self.state(long, ref)).payload == b"r"

    async def test_a_result_whose_claim_expired_while_it_waited_is_kept_for_the_stores_ttl(self, site: Site) -> None:
        gateway, plain = await self.gateway(site), new_ref()
        keyed, began = new_ref(), time.monotonic()
        await gateway.store.claim(new_claim(keyed, gateway.channel, ttl=SHORT_TTL))
        await self.until_gone(site, gateway.store, keyed, began=began, ttl=SHORT_TTL)
        began = time.monotonic()
        await gateway.store.finish(
            [
                Terminal(keyed, b"r", gateway.channel, ttl=SHORT_TTL, claimed=True),
                Terminal(plain, b"p", gateway.channel, ttl=SHORT_TTL),
            ]
        )
        await self.until_gone(site, gateway.store, plain, began=began, ttl=SHORT_TTL)
        assert (await self.state(gateway.store, keyed)).payload == b"r"

    async def test_an_answer_that_wakes_nobody_is_kept_for_the_stores_ttl(self, site: Site, store: Store) -> None:
        ref = new_ref()
        await store.finish([Terminal(ref, b"to be polled", ttl=0.05)])
        began = time.monotonic()
        await site.until(lambda: time.monotonic() - began > 0.15)
        assert (await self.state(store, ref)).payload == b"to be polled"

    async def test_an_answer_that_goes_to_a_topic_is_kept_for_its_own_ttl(self, site: Site, store: Store) -> None:
        short, long, claimed = new_ref(), new_ref(), new_ref()
        await store.claim(new_claim(claimed, ttl=60.0))
        began = time.monotonic()
        topical = [Terminal(ref, b"1", ttl=SHORT_TTL, to_topic=True) for ref in (short, claimed)]
        await store.finish([*topical, Terminal(long, b"1", ttl=60.0, to_topic=True)])
        assert [state and state.payload for state in await store.look([short, long, claimed])] == [b"1"] * 3
        await self.until_gone(site, store, short, began=began, ttl=SHORT_TTL)
        assert [state and state.payload for state in await store.look([long, claimed])] == [b"1"] * 2
        await store.trim([long])
        assert await store.finish([Terminal(long, b"2", to_topic=True)]) == [ALREADY]

    async def test_a_released_request_runs_again_and_any_other_stays(self, site: Site, store: Store) -> None:
        done, trimmed, queued, running = new_ref(), new_ref(), new_ref(), new_ref()
        await store.claim(new_claim(queued))
        await store.start([running], "w1", 60.0)
        await store.finish([Terminal(ref, b"r", ttl=60.0, to_topic=True) for ref in (done, trimmed)])
        await store.trim([trimmed])
        await store.release([done, trimmed, queued, running, new_ref()])
        await store.release([])
        states = await store.look([done, trimmed, queued, running])
        assert [state and state.state for state in states] == [None, "done", "queued", "running"]
        assert await store.start([done, trimmed, running], "w2", 60.0) == [1, 0, 2]
        assert await store.finish([Terminal(done, b"again", ttl=60.0, to_topic=True)]) == [WRITTEN]
        assert (await self.state(store, done)).payload == b"again"

    async def test_a_claim_expires_with_its_own_ttl(self, site: Site, store: Store) -> None:
        ref = new_ref()
        began = time.monotonic()
        await store.claim(new_claim(ref, ttl=SHORT_TTL))
        await store.confirm(ref, published=True)
        await self.until_gone(site, store, ref, began=began, ttl=SHORT_TTL)
        assert (await store.claim(new_claim(ref, fingerprint="f2"))).state is ClaimState.FRESH

    async def test_attaching_prolongs_a_claim(self, site: Site, store: Store) -> None:
        for _ in range(20):
            ref = new_ref()
            await store.claim(new_claim(ref, ttl=SHORT_TTL))
            await store.confirm(ref, published=True)
            if (await store.claim(new_claim(ref, ttl=60.0))).state is ClaimState.ATTACHED:
                break  # else the machine stood still for longer than the claim lives
        assert (await store.claim(new_claim(ref, ttl=0.01))).state is ClaimState.ATTACHED
        began = time.monotonic()
        await site.until(lambda: time.monotonic() - began > SHORT_TTL + 0.05)
        assert (await self.state(store, ref)).state == "queued"

    async def test_an_attempt_without_an_end_expires(self, site: Site, store: Store) -> None:
        ref = new_ref()
        began = time.monotonic()
        await store.start([ref], "w1", SHORT_TTL)
        await self.until_gone(site, store, ref, began=began, ttl=SHORT_TTL)
        assert await store.start([ref], "w1", 60.0) == [1]

    async def test_starting_never_shortens_a_claim(self, site: Site, store: Store) -> None:
        ref = new_ref()
        await store.claim(new_claim(ref, ttl=60.0))
        await store.start([ref], "w1", 0.01)
        began = time.monotonic()
        await site.until(lambda: time.monotonic() - began > 0.1)
        assert (await self.state(store, ref)).state == "running"

    # --- cancelling --------------------------------------------------------------------------------------------------

    async def test_cancels_reach_every_worker_of_the_topic(self, site: Site, store: Store) -> None:
        channel = site.names.cancel_channel(site.names.infer_topic("m", "1"))
        other = site.names.cancel_channel(site.names.infer_topic("m", "2"))
        heard: list[list[Cancel]] = [[], [], []]
        for cancels, name in zip(heard, (channel, channel, other), strict=True):
            await (await site.connect()).listen_cancels(name, cancels.extend)
        one, two, three = Cancel("a/1", 1_700_000_000.123456), Cancel("2", 5.0), Cancel("3", 0.0)
        await store.cancel(channel, [one, two])
        await site.until(lambda: len(heard[0]) == 2 and len(heard[1]) == 2)
        assert heard == [[one, two], [one, two], []]
        await store.cancel(other, [three])
        await site.until(lambda: heard[2] == [three])

    async def test_a_cancel_means_the_record_that_carries_the_same_stamp(self, site: Site, store: Store) -> None:
        channel = site.names.cancel_channel(site.names.infer_topic("m", "1"))
        heard: list[Cancel] = []
        await (await site.connect()).listen_cancels(channel, heard.extend)
        stamps = [1_700_000_000 + n / 7e6 for n in range(100)]
        await store.cancel(channel, [Cancel("1", stamp) for stamp in stamps])
        await site.until(lambda: len(heard) == len(stamps))
        for stamp, cancel in zip(stamps, heard, strict=True):
            value, headers = encode_request(InferRequest("1", "m", "1", (), accepted=stamp))
            record = decode_request(value, headers, model="m", version="1", default_id="", timestamp=0.0)
            assert cancel.until == record.accepted

    async def test_no_cancels_after_unlisten(self, site: Site, store: Store) -> None:
        first, second = site.names.cancel_channel("t1"), site.names.cancel_channel("t2")
        heard: list[Cancel] = []
        worker = await site.connect()
        await worker.listen_cancels(first, heard.extend)
        await worker.listen_cancels(second, heard.extend)
        await worker.unlisten(first)
        await store.cancel(first, [Cancel("1", 1.0)])
        await store.cancel(second, [Cancel("2", 1.0)])
        await site.until(lambda: heard == [Cancel("2", 1.0)])

    async def test_cancelling_with_nobody_there_is_no_error(self, site: Site, store: Store) -> None:
        await store.cancel(site.names.cancel_channel("nobody"), [Cancel("1", 1.0)])

    # --- the store itself --------------------------------------------------------------------------------------------

    async def test_its_clock_goes_forward(self, site: Site, store: Store) -> None:
        times = [await store.now() for _ in range(20)]
        assert times == sorted(times)
        assert times[0] == pytest.approx(time.time(), abs=5)
        assert (await (await site.connect()).now()) >= times[0]

    async def test_its_fill_is_a_share(self, store: Store) -> None:
        assert 0 <= await store.fill() <= 1

    async def test_a_closed_store_is_not_healthy(self, site: Site) -> None:
        gateway, other = await self.gateway(site), await site.connect()
        assert await gateway.store.healthy()
        await gateway.store.close()
        assert not await gateway.store.healthy()
        assert await other.healthy()
        await other.finish([Terminal(new_ref(), b"r", gateway.channel)])
        assert gateway.wakes == []
        await gateway.store.close()

    # --- the directory -----------------------------------------------------------------------------------------------

    async def test_a_hint_about_a_waiting_request_reaches_every_listener(self, site: Site, store: Store) -> None:
        await store.hint_waiting("nobody.infer.m.1")
        listeners = [await site.connect(), await site.connect()]
        heard: list[asyncio.Queue[str]] = [asyncio.Queue(), asyncio.Queue()]
        for listener, mine in zip(listeners, heard, strict=True):
            await listener.listen_waiting(mine.put_nowait)
        await store.hint_waiting("test.infer.m.1")
        await store.hint_waiting("test.batch.m.1")
        async with asyncio.timeout(5.0):
            told = [[await mine.get(), await mine.get()] for mine in heard]
        assert told == [["test.infer.m.1", "test.batch.m.1"]] * 2

    async def test_the_directory_keeps_the_last_beat_of_every_worker(self, site: Site, store: Store) -> None:
        reader = await site.connect()
        beats = [beat_of(f"w{n}") for n in range(2)]
        for beat in beats:
            await store.beat(beat)
        later = dataclasses.replace(beats[0], at=1_700_000_001.5, draining=True)
        await store.beat(later)
        assert sorted(await reader.workers(), key=lambda beat: beat.worker) == [later, beats[1]]
        await reader.forget("w0")
        await reader.forget("stranger")
        assert await store.workers() == [beats[1]]

    async def test_whatever_changes_in_a_heartbeat_is_read(self, site: Site, store: Store) -> None:
        reader, beat = await site.connect(), beat_of("w")
        (load,) = beat.models
        changes = [
            beat,
            dataclasses.replace(beat, models=(dataclasses.replace(load, lag=5, queued_rows=7),)),
            dataclasses.replace(beat, models=(dataclasses.replace(load, lag=6), ModelLoad("n", "2", ModelState.LOADING))),
            dataclasses.replace(beat, models=(ModelLoad("n", "2", ModelState.LOADING),), mode="explicit", unloaded=("x",)),
            dataclasses.replace(beat, incarnation="second", models=(), memory=(5, 3), members={}),
            dataclasses.replace(beat, control=(ControlProgress("m", 7, ModelState.UNAVAILABLE, "no", True, Outcome.FAILED),)),
        ]  # fmt: skip
        for second, changed in enumerate(changes):
            await store.beat(dataclasses.replace(changed, at=1_700_000_000.5 + second))
            assert await reader.workers() == [dataclasses.replace(changed, at=1_700_000_000.5 + second)]

    async def test_pulses_of_some_workers_or_all(self, site: Site, store: Store) -> None:
        reader = await site.connect()
        for n in range(3):
            await store.beat(dataclasses.replace(beat_of(f"w{n}"), draining=n == 2))

        def said(pulses: list[Pulse]) -> list[tuple[str, str, float, bool]]:
            return sorted((pulse.worker, pulse.incarnation, pulse.at, pulse.draining) for pulse in pulses)

        known = [(f"w{n}", f"i-w{n}", 1_700_000_000.5, n == 2) for n in range(3)]
        assert said(await reader.pulses()) == known
        assert said(await reader.pulses(["w2", "stranger", "w0"])) == [known[0], known[2]]
        assert await reader.pulses([]) == []
        await reader.forget("w2")
        assert said(await reader.pulses(["w2", "w0"])) == [known[0]]

    async def test_an_answer_is_whole_and_stays_beside_later_heartbeats(self, site: Site, store: Store) -> None:
        reader, process = await site.connect(), await site.connect()
        beat = dataclasses.replace(beat_of("w"), asked=())
        await store.beat(beat)
        (listening,) = await reader.workers()
        assert listening.asked is not None
        assert [answer for answer in await reader.answers(["w", "stranger"]) if answer.asked] == []
        (load,) = beat.models
        loads = (dataclasses.replace(load, seconds_per_row={"16/8": 0.001}, statistics={"inference_count": 1}),)
        answer = dataclasses.replace(beat, asked=("a", "b"), models=loads)
        await process.answer(answer)  # its process, while its supervisor repeats what it heard last
        await store.beat(dataclasses.replace(beat, at=beat.at + 1))
        assert await reader.answers(["stranger", "w"]) == [answer]
        (last,) = await reader.workers()
        assert last.at == beat.at + 1
        await reader.forget("w")
        assert await reader.answers(["w"]) == []


def beat_of(worker: str) -> Heartbeat:
    load = ModelLoad("m", "1", ModelState.READY, (0, 3), lag=4, runs=((2, 5, 1000),), executed=5, last_inference=9)
    return Heartbeat(worker, f"i-{worker}", "host", 42, at=1_700_000_000.5, models=(load,), members={"g": "m-1"})
