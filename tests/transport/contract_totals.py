"""What every result store must do with the totals of model versions; part of `ResultsContract`."""

from __future__ import annotations

import asyncio
import random
import uuid

from protocol.ports import Terminal
from protocol.totals import LAST, WRAPS, Counts, KeptTotals, Key
from tests.transport.results_site import ALREADY, WRITTEN, ResultsSuite, Site, Store, new_ref

ONE = {"ok": 1, "ok.ns": 7}


def new_version() -> Key:
    return uuid.uuid4().hex, "1"


class TotalsContract(ResultsSuite):
    """Inherit, and define the fixture `site`."""

    async def test_nothing_counted_is_nothing(self, store: Store) -> None:
        assert await store.totals([]) == []
        assert await store.totals([new_version(), new_version()]) == [{}, {}]

    async def test_an_answer_that_is_written_is_counted_once(self, site: Site, store: Store) -> None:
        key, other, ref = new_version(), await site.connect(), new_ref()
        assert await store.finish([Terminal(ref, b"x", counts=Counts(key, ONE, {"b1": 1}))]) == [WRITTEN]
        once = [{"ok": 1, "ok.ns": 7, "b1": 1}]
        assert await other.totals([key]) == once
        for repeated in (store, other):
            assert await repeated.finish([Terminal(ref, b"x", counts=Counts(key, ONE, {"b1": 1}))]) == [ALREADY]
        assert await store.totals([key]) == once

    async def test_of_a_batch_only_what_is_written_is_counted(self, store: Store) -> None:
        key, old, twice = new_version(), new_ref(), new_ref()
        await store.finish([Terminal(old, b"old")])
        shared = Counts(key, ONE)
        batch = [
            Terminal(old, b"late", counts=Counts(key, ONE, {"b5": 1})),
            Terminal(new_ref(), b"x", counts=shared),
            Terminal(twice, b"x", counts=shared),
            Terminal(twice, b"y", counts=shared),
            Terminal(new_ref(), b"x", counts=Counts(key, {"fail.BACKEND": 1, "fail.ns": 3})),
            Terminal(new_ref(), b"x"),
        ]
        assert await store.finish(batch) == [ALREADY, WRITTEN, WRITTEN, ALREADY, WRITTEN, WRITTEN]
        counted = {"ok": 2, "ok.ns": 14, "fail.BACKEND": 1, "fail.ns": 3, "b5": 1}
        assert await store.totals([key]) == [counted]
        assert await store.finish(batch) == [ALREADY] * 6
        assert await store.totals([key]) == [counted]

    async def test_versions_are_counted_apart(self, store: Store) -> None:
        keys = [("a model: ä/b", "1"), ("a model: ä/b", "2"), ("other", "1")]
        await store.finish([Terminal(new_ref(), b"x", counts=Counts(key, {"ok": n + 1})) for n, key in enumerate(keys)])
        assert await store.totals([keys[2], keys[0], new_version(), keys[1]]) == [{"ok": 3}, {"ok": 1}, {}, {"ok": 2}]

    async def test_the_last_time_is_the_largest(self, store: Store) -> None:
        key = new_version()
        for at in [5, 1_700_000_000_000, 7, *range(100)]:
            await store.finish([Terminal(new_ref(), b"x", counts=Counts(key, {LAST: at}))])
        assert await store.totals([key]) == [{LAST: 1_700_000_000_000}]

    async def test_large_numbers_are_exact_and_start_again_before_they_overflow(self, store: Store) -> None:
        key, large = new_version(), 2**52 + 1
        for _ in range(129):
            await store.finish([Terminal(new_ref(), b"x", counts=Counts(key, {"ns": large}))])
        assert await store.totals([key]) == [{"ns": 129 * large}]
        for _ in range(2**63 // (large * 128) + 1):
            part = [Terminal(new_ref(), b"x", counts=Counts(key, {"ns": large * 128}))]
            await store.finish(part)
        ((total,),) = [found.values() for found in await store.totals([key])]
        assert 0 < total < WRAPS

    async def test_many_writers_lose_no_count_and_readers_never_see_less(self, site: Site) -> None:
        """Two workers write the same answers, as after a rebalance; a reader polls."""
        key, dice, stores = new_version(), random.Random(7), [await site.connect() for _ in range(3)]
        refs = [new_ref() for _ in range(600)]
        groups = [refs[start : start + 6] for start in range(0, len(refs), 6)]

        async def write(store: Store, order: list[list[str]]) -> None:
            for group in order:
                first = Counts(key, ONE, {"b6": 1})
                rest = Counts(key, ONE)
                await store.finish([Terminal(ref, b"x", counts=rest if n else first) for n, ref in enumerate(group)])

        async def read() -> None:
            seen = 0
            while seen < len(refs):
                (total,) = await stores[2].totals([key])
                assert total.get("ok", 0) >= seen
                seen = total.get("ok", 0)
                await asyncio.sleep(0)

        shuffled = dice.sample(groups, len(groups))
        async with asyncio.timeout(site.time_limit):
            await asyncio.gather(write(stores[0], groups), write(stores[1], shuffled), read())
        assert await stores[2].totals([key]) == [{"ok": 600, "ok.ns": 4200, "b6": 100}]

    async def test_it_counts_as_the_reference_does(self, site: Site, store: Store) -> None:
        """Random calls: the same totals as `KeptTotals` has of the outcomes that the store gave."""
        dice, keys, refs = random.Random(11), [new_version() for _ in range(2)], [new_ref() for _ in range(40)]
        reference = KeptTotals()
        for _ in range(80):
            key = dice.choice(keys)
            shared = Counts(key, {"ok": 1, "ns": dice.randrange(10**12)})
            alone = [Counts(key, {"fail": 1, LAST: dice.randrange(10**13)}, {"b": n}) for n in range(dice.randrange(3))]
            counts = dice.sample([None, shared, shared, shared, *alone], 4)[: dice.randrange(1, 5)]
            calls = [Terminal(dice.choice(refs), b"x", counts=each) for each in counts]
            outcomes = await store.finish(calls)
            reference.count([call.counts for call in calls], [outcome is WRITTEN for outcome in outcomes])
        assert await store.totals(keys) == reference.read(keys)
