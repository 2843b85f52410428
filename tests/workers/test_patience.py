import asyncio

from protocol.errors import Unavailable
from workers.retry import Patience


async def test_a_call_is_repeated_until_it_succeeds() -> None:
    patience = Patience(first=0.0001, longest=0.0002)
    recovered: list[int] = []
    patience.on_recovered.append(lambda: recovered.append(patience.failing))
    outcomes: list[object] = [Unavailable("away"), ValueError("odd"), Unavailable("away"), "here"]
    failing: list[int] = []
    told: list[str] = []

    async def make() -> object:
        failing.append(patience.failing)
        told.append(patience.problem())
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert await patience.call("it", make) == "here"
    assert failing == [0, 1, 1, 1]
    assert told == ["", *[f"'it' fails and is repeated: {why}" for why in ("away", "odd", "away")]]
    assert patience.failures == {"it": 3}
    assert patience.problem() == ""
    assert recovered == [0]


async def test_success_at_once_is_no_recovery() -> None:
    patience = Patience()
    patience.on_recovered.append(lambda: 1 / 0)  # type: ignore[arg-type]  # must not be called

    async def make() -> int:
        return 1

    assert await patience.call("it", make) == 1


async def test_giving_up_leaves_nothing_behind() -> None:
    patience = Patience(first=0.0001, longest=0.0002)
    tried = asyncio.Event()

    async def make() -> None:
        if patience.failing:
            tried.set()
        raise Unavailable("away")

    task = asyncio.ensure_future(patience.call("it", make))
    await tried.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert patience.failing == 0
