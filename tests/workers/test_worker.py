from pathlib import Path

from tests.workers.fleet import fleet, values, write_model


async def test_a_request_comes_back(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        await f.worker()
        caller = await f.caller()
        replies = await caller.ask(caller.request(1, 2), caller.request(3, 4))
        assert values(replies) == [[1, 2], [3, 4]]
