"""A result store that has no room for answers: what is refused, and when."""

from __future__ import annotations

from protocol.codec import encode_reply
from protocol.messages import InferReply
from protocol.ports import Terminal
from tests.gateway.fleet import Site, add_sub, until


async def test_new_asynchronous_work_is_refused_when_the_store_fills_up(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(fill_limit=0.0001)
    store = (await fleet.transport()).results
    await store.finish([Terminal("x", encode_reply(InferReply("m", "1")) + bytes(10**6), "", 60.0)])
    await until(lambda: gateway.gateway.service.fill > 0.0001)
    assert gateway.metric("penstock_gateway_store_used_ratio") == gateway.gateway.service.fill

    refused = await gateway.infer(add_sub(), prefer="respond-async")

    assert refused.status_code == 503
    assert "full" in refused.json()["error"]
    assert refused.headers["retry-after"] == "30"
    assert (await gateway.infer()).status_code == 200


async def test_every_call_is_refused_at_once_when_the_store_has_no_room_for_its_answer(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway(full_limit=0.0001)
    store = (await fleet.transport()).results
    assert (await gateway.infer()).status_code == 200
    await store.finish([Terminal("x", encode_reply(InferReply("m", "1")) + bytes(10**6), "", 60.0)])
    await until(lambda: gateway.gateway.service.fill > 0.0001)

    refused = await gateway.infer()

    assert refused.status_code == 503
    assert "the result store is" in refused.json()["error"]
    assert refused.headers["retry-after"] == "5"
    assert len(worker.ran) == 1
