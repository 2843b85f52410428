"""The fences against a model made of Redis stream entries, with the ids that the Redis scripts use."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.ports import Claim, Claimed, ClaimState, FinishOutcome, Place, RequestState, Terminal, Wake
from protocol.transport.embedded.fence import CALL_LIMIT, INLINE_LIMIT, MAX_FENCES, Fences

RESULT_TTL = 50.0
LAST = (2**64 - 1, 2**64 - 1)
REFS = st.sampled_from(["a", "b", "c/1"])
CHANNELS = st.sampled_from(["", "g1", "g2", "g3"])
PAYLOADS = st.sampled_from([b"", b"\xff\xfe", b"x" * INLINE_LIMIT, b"y" * (INLINE_LIMIT + 1)])
TTLS = st.sampled_from([1.0, 5.0, 30.0])
PLACES = [(0, 7), (2, 9)]


def text(place: Place) -> str:
    return f"{place[0]}/{place[1]}"


@dataclasses.dataclass
class Entries:
    """One Redis stream: XADD with explicit ids, PEXPIRE, XTRIM MAXLEN 0."""

    expires: float = 0.0
    last: tuple[int, int] = (0, 0)
    entries: list[dict[str, str | bytes | float]] = dataclasses.field(default_factory=list)

    def add(self, at: tuple[int, int], **fields: str | bytes | float) -> None:
        assert at > self.last
        self.last = at
        self.entries.append(fields)

    def append(self, **fields: str | bytes | float) -> None:
        self.add((self.last[0], self.last[1] + 1), **fields)

    @property
    def over(self) -> bool:
        return self.last == LAST

    @property
    def claim(self) -> dict[str, str | bytes | float]:
        return self.entries[0] if self.entries and "f" in self.entries[0] else {}

    @property
    def channels(self) -> list[str]:
        return [str(entry["to"]) for entry in self.entries if entry.get("to")]


class RedisModel:
    def __init__(self) -> None:
        self.streams: dict[str, Entries] = {}

    def get(self, ref: str, now: float) -> Entries | None:
        stream = self.streams.get(ref)
        return stream if stream is not None and stream.expires > now else None

    def make(self, ref: str, expires: float) -> Entries:
        self.streams[ref] = Entries(expires)
        return self.streams[ref]

    def finish(self, answers: list[Terminal], now: float) -> tuple[list[FinishOutcome], dict[str, list[Wake]]]:
        outcomes: list[FinishOutcome] = []
        wakes: dict[str, list[Wake]] = {}
        for answer in answers:
            stream = self.get(answer.ref, now) or self.make(answer.ref, 0.0)
            channels = dict.fromkeys([channel for channel in (answer.reply_to, *stream.channels) if channel])
            inline = answer.payload if len(answer.payload) <= INLINE_LIMIT and not stream.over else None
            outcomes.append(FinishOutcome.ALREADY_TERMINAL if stream.over else FinishOutcome.WRITTEN)
            if not stream.over:
                kept = RESULT_TTL if stream.claim or not answer.reply_to else answer.ttl
                stream.add(LAST, r=answer.payload, x=str(int(answer.retriable)))
                stream.expires = now + kept
            for channel in channels:
                wakes.setdefault(channel, []).append(Wake(answer.ref, inline))
        return outcomes, wakes

    def claim(self, claim: Claim, now: float) -> Claimed:
        stream = self.get(claim.ref, now)
        if stream is not None and stream.claim and stream.claim["f"] != claim.fingerprint:
            return Claimed(ClaimState.MISMATCH)
        if stream is not None and stream.over:
            end = stream.entries[-1] if stream.entries else {"r": b"", "x": "0"}
            if end["x"] != "1":
                return Claimed(ClaimState.DONE, bytes(end["r"]))  # type: ignore[arg-type]
            stream = None
        if stream is None:
            stream = self.make(claim.ref, now + claim.ttl)
            fields = {"f": claim.fingerprint, "m": claim.model, "v": claim.version, "a": claim.accepted}
            stream.add((0, 1), to=claim.reply_to, lease=now + claim.lease, **fields)
            return Claimed(ClaimState.FRESH)
        stream.expires = max(stream.expires, now + claim.ttl)
        leases = [float(entry["lease"]) for entry in stream.entries if "lease" in entry] or [0.0]
        said = [entry["ok"] for entry in stream.entries if "ok" in entry]
        places = [place for place in said if place != "1"]
        published = bool(stream.last[0] or said)
        lost = claim.lost is not None and (not places or places[-1] == text(claim.lost))
        if (published and not lost) or now < leases[-1]:
            stream.append(to=claim.reply_to)
            place = None if not places else PLACES[[text(known) for known in PLACES].index(str(places[-1]))]
            return Claimed(ClaimState.ATTACHED, None, published, place)
        stream.append(to=claim.reply_to, lease=now + claim.lease)
        return Claimed(ClaimState.FRESH)

    def confirm(self, ref: str, published: bool, now: float, place: Place | None) -> None:
        stream = self.get(ref, now)
        if stream is not None and not stream.over:
            stream.append(**({"ok": text(place) if place else "1"} if published else {"lease": 0.0}))

    def start(self, ref: str, worker: str, ttl: float, now: float) -> int:
        stream = self.get(ref, now)
        if stream is not None and stream.over:
            return 0
        stream = stream or self.make(ref, now + ttl)
        stream.expires = max(stream.expires, now + ttl)
        begun = [entry for entry in stream.entries if "worker" in entry]
        if not begun or begun[-1]["worker"] != worker:
            stream.add((stream.last[0] + 1, 0), worker=worker)
        return stream.last[0]

    def trim(self, ref: str, now: float) -> None:
        stream = self.get(ref, now)
        if stream is not None and stream.over:
            stream.entries.clear()

    def look(self, ref: str, now: float) -> RequestState | None:
        stream = self.get(ref, now)
        if stream is None:
            return None
        state = "done" if stream.over else "running" if stream.last[0] else "queued"
        payload = (bytes(stream.entries[-1]["r"]) if stream.entries else b"") if stream.over else None  # type: ignore[arg-type]
        claim = {"m": "", "v": "", "a": 0.0, **stream.claim}
        return RequestState(state, payload, str(claim["m"]), str(claim["v"]), float(claim["a"]))


@st.composite
def answers(draw: st.DrawFn) -> Terminal:
    return Terminal(draw(REFS), draw(PAYLOADS), draw(CHANNELS), draw(TTLS), draw(st.booleans()))


class Claims(RuleBasedStateMachine):
    """Every operation, in any order, at any time: the same answers as a Redis stream gives."""

    def __init__(self) -> None:
        super().__init__()
        self.fences = Fences()
        self.model = RedisModel()
        self.now = 1000.0

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 29.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(batch=st.lists(answers(), max_size=3))
    def finish(self, batch: list[Terminal]) -> None:
        assert self.fences.finish(batch, self.now, RESULT_TTL) == self.model.finish(batch, self.now)

    @rule(
        ref=REFS,
        body=st.sampled_from(["f1", "f1", "f2"]),
        channel=CHANNELS,
        lease=st.sampled_from([1.0, 10.0]),
        ttl=TTLS,
        lost=st.sampled_from([None, *PLACES]),
    )
    def claim(self, ref: str, body: str, channel: str, lease: float, ttl: float, lost: Place | None) -> None:
        claim = Claim(ref, body, channel, lease, ttl, "m", "1", accepted=self.now, lost=lost)
        assert self.fences.claim(claim, self.now) == self.model.claim(claim, self.now)

    @rule(ref=REFS, published=st.booleans(), place=st.sampled_from([None, *PLACES]))
    def confirm(self, ref: str, published: bool, place: Place | None) -> None:
        self.fences.confirm(ref, published, self.now, place)
        self.model.confirm(ref, published, self.now, place)

    @rule(ref=REFS, worker=st.sampled_from("uvw"), ttl=TTLS)
    def start(self, ref: str, worker: str, ttl: float) -> None:
        assert self.fences.start(ref, worker, ttl, self.now) == self.model.start(ref, worker, ttl, self.now)

    @rule(ref=REFS)
    def trim(self, ref: str) -> None:
        self.fences.trim(ref, self.now)
        self.model.trim(ref, self.now)

    @rule(budget=st.integers(0, 3))
    def expire(self, budget: int) -> None:
        for ref in self.fences.expire(self.now, budget):
            assert self.model.look(ref, self.now) is None

    @rule()
    def save_and_restore(self) -> None:
        saved = Fences()
        for ref, expires in self.fences.newest(self.fences.made - self.fences.dropped):
            saved.restore(ref, expires)
        for ref, stream in self.fences.streams.items():
            saved.restore(ref, dataclasses.replace(stream))
        self.fences = saved

    @invariant()
    def states_agree(self) -> None:
        for ref in ("a", "b", "c/1"):
            assert self.fences.look(ref, self.now) == self.model.look(ref, self.now)

    def teardown(self) -> None:
        self.fences.expire(self.now + 1000, 1000)
        assert not self.fences.streams
        assert self.fences.size == 0
        assert self.fences.made == self.fences.dropped


class Delivered(RuleBasedStateMachine):
    """Where wake-ups cannot get lost, plain answers are only fenced; nothing else differs."""

    LISTENING = ("g1", "g2")

    def __init__(self) -> None:
        super().__init__()
        self.fences = Fences()
        self.model = RedisModel()
        self.now = 1000.0

    @rule(seconds=st.sampled_from([0.5, 4.0, 29.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(batch=st.lists(answers(), max_size=3))
    def finish(self, batch: list[Terminal]) -> None:
        expected = self.model.finish(batch, self.now)
        assert self.fences.finish(batch, self.now, RESULT_TTL, self.LISTENING) == expected
        for answer, outcome in zip(batch, expected[0], strict=True):
            if outcome is FinishOutcome.WRITTEN:
                certain = answer.reply_to in self.LISTENING and len(answer.payload) <= INLINE_LIMIT
                state = self.fences.look(answer.ref, self.now)
                assert state == RequestState("done", b"" if certain else answer.payload)

    @rule(ref=REFS, worker=st.sampled_from("uvw"), ttl=TTLS)
    def start(self, ref: str, worker: str, ttl: float) -> None:
        assert self.fences.start(ref, worker, ttl, self.now) == self.model.start(ref, worker, ttl, self.now)

    @rule(ref=REFS)
    def trim(self, ref: str) -> None:
        self.fences.trim(ref, self.now)
        self.model.trim(ref, self.now)

    @invariant()
    def the_same_refs_are_there(self) -> None:
        for ref in ("a", "b", "c/1"):
            mine, theirs = self.fences.look(ref, self.now), self.model.look(ref, self.now)
            assert (mine and mine.state) == (theirs and theirs.state)


TestClaims = Claims.TestCase
TestDelivered = Delivered.TestCase


def test_a_call_sends_no_more_than_its_limit_inline() -> None:
    payload = b"x" * INLINE_LIMIT
    whole = CALL_LIMIT // INLINE_LIMIT
    _, wakes = Fences().finish([Terminal(f"{n}", payload, "g") for n in range(whole + 5)], 0.0, 60.0)
    assert [wake.payload for wake in wakes["g"]] == [payload] * whole + [None] * 5


def test_a_payload_for_two_channels_counts_twice() -> None:
    fences = Fences()
    for n in range(20):
        fences.claim(Claim(f"{n}", "f", "g2", 1.0, 60.0, "m", "1", 0.0), 0.0)
    _, wakes = fences.finish([Terminal(f"{n}", b"x" * INLINE_LIMIT, "g1") for n in range(20)], 0.0, 60.0)
    inline = [sum(wake.payload is not None for wake in wakes[channel]) for channel in ("g1", "g2")]
    assert inline == [CALL_LIMIT // INLINE_LIMIT // 2] * 2


def test_bare_fences_are_bounded_and_the_oldest_go_first() -> None:
    fences = Fences()
    for first in range(0, MAX_FENCES + 1000, 1000):
        fences.finish([Terminal(f"{first + n}", b"", "g", 1e9) for n in range(1000)], 0.0, 60.0, ("g",))
        fences.expire(0.0, 2000)
    assert fences.made - fences.dropped == MAX_FENCES
    oldest = fences.dropped
    assert [fences.look(f"{n}", 0.0) is None for n in (0, oldest - 1, oldest)] == [True, True, False]


def test_a_request_that_was_fenced_twice_can_be_saved_when_the_first_fence_has_gone() -> None:
    fences = Fences()
    for now in (0.0, 60.0):
        fences.finish([Terminal("a", b"", "g", 1.0)], now, 60.0, ("g",))
    fences.expire(120.0, 1)
    assert (fences.made - fences.dropped, fences.newest(1)) == (1, [])


def test_forgetting_goes_in_small_steps() -> None:
    fences = Fences()
    fences.finish([Terminal(f"{n}", b"x") for n in range(100)], 0.0, 10.0)
    fences.finish([Terminal(f"f{n}", b"x", "g", 10.0) for n in range(100)], 0.0, 10.0, ("g",))
    assert len(fences.expire(11.0, 7)) == 7
    assert (len(fences.streams), fences.dropped) == (93, 7)
    assert fences.expire(9.0, 100) == []


def test_prolonging_a_claim_does_not_pile_up() -> None:
    fences = Fences()
    for second in range(1000):
        fences.claim(Claim("a", "f", "g", 1.0, 100.0, "m", "1", 0.0), float(second))
        assert not fences.expire(float(second), 10)
    assert len(fences._expiries) == 1
    assert fences.expire(1099.0, 10) == ["a"]


def test_a_key_that_runs_again_and_again_leaves_nothing_behind() -> None:
    fences = Fences()
    claim = Claim("a", "f", "", 1.0, 100.0, "m", "1", 0.0)
    for second in range(50):
        assert fences.claim(claim, float(second)).state is ClaimState.FRESH
        fences.finish([Terminal("a", b"cancelled", retriable=True)], float(second), 100.0)
    fences.expire(120.0, 1000)
    assert len(fences._expiries) == 29
    assert fences.expire(149.0, 1000) == ["a"]
    assert (fences._expiries, fences.size) == ([], 0)


def test_an_acknowledged_publish_is_not_undone() -> None:
    fences = Fences()
    claim = Claim("a", "f", "", 1.0, 100.0, "m", "1", 0.0)
    fences.claim(claim, 0.0)
    fences.confirm("a", True, 0.0)
    fences.confirm("a", False, 0.0)
    assert fences.claim(claim, 50.0).state is ClaimState.ATTACHED
