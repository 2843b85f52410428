import asyncio

from protocol.errors import Unavailable
from workers.retry import Retry


async def test_a_call_is_repeated_until_it_succeeds() -> None:
    retry = Retry(first=0.0001, longest=0.0002)
    recovered: list[int] = []
    retry.on_recovered.append(lambda: recovered.append(retry.failing))
    outcomes: list[object] = [Unavailable("away"), ValueError("odd"), Unavailable("away"), "here"]
    failing: list[int] = []
    told: list[str] = []

    async def make() -> object:
        failing.append(retry.failing)
        told.append(retry.problem())
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert await retry.call("it", make) == "here"
    assert failing == [0, 1, 1, 1]
    assert told == ["", *[f"'it' fails and is retried: {why}" for why in ("away", "odd", "away")]]
    assert retry.failures == {"it": 3}
    assert retry.problem() == ""
    assert recovered == [0]


async def test_success_at_once_is_no_recovery() -> None:
    retry = Retry()
    retry.on_recovered.append(lambda: 1 / 0)  # type: ignore[arg-type]  # must not be called

    async def make() -> int:
        return 1

    assert await retry.call("it", make) == 1


async def test_giving_up_leaves_nothing_behind() -> None:
    retry = Retry(first=0.0001, longest=0.0002)
    tried = asyncio.Event()

    async def make() -> None:
        if retry.failing:
            tried.set()
        raise Unavailable("away")

    task = asyncio.ensure_future(retry.call("it", make))
    await tried.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert retry.failing == 0
