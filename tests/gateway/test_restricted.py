"""Restricted routes and forwarded headers over sockets, on both doors."""

from __future__ import annotations

import pytest

from protocol.errors import ConfigError
from tests.gateway.fleet import Site, add_sub
from tests.gateway.rpc.stub import infer_request, stub


async def test_restricted_routes_need_their_header_and_others_do_not(fleet: Site) -> None:
    await fleet.worker()
    rules = ("inference,model-config:who=me", "health:probe=yes")
    gateway = await fleet.gateway(http_restricted_api=rules)

    refused = await gateway.infer(add_sub())
    assert (refused.status_code, refused.json()) == (403, {"error": "This API is restricted, expecting header 'who'"})
    assert refused.headers["penstock-error"] == "PERMISSION_DENIED"
    assert (await gateway.get("/v2/models/add_sub/config")).status_code == 403
    assert (await gateway.get("/v2/health/ready")).status_code == 403
    assert (await gateway.get("/v2/models/add_sub")).status_code == 200
    allowed = {"who": "me"}
    assert (await gateway.post("/v2/models/add_sub/infer", json=add_sub(), headers=allowed)).status_code == 200
    assert (await gateway.get("/v2/models/add_sub/config", headers=allowed)).status_code == 200
    assert (await gateway.get("/v2/health/ready", headers={"Probe": "yes"})).status_code == 200


async def test_restricted_methods_need_tritons_metadata(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0, grpc_restricted_protocol=("inference,health:who=me",))
    async with stub(running) as client:
        status, text = await client.refused(infer_request(), metadata=(("who", "me"),))
        assert (status, text) == (
            "PERMISSION_DENIED",
            "This API is restricted, expecting header 'triton-grpc-protocol-who'",
        )
        assert (await client.refused(method="ServerLive"))[0] == "PERMISSION_DENIED"
        assert (await client.call("ServerMetadata")).name
        assert (await client.infer(metadata=(("triton-grpc-protocol-who", "me"),))).model_name == "add_sub"


async def test_headers_become_parameters_of_the_request(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway(
        grpc_port=0, http_header_forward_pattern="x-.*|authorization", grpc_header_forward_pattern="x-.*"
    )

    headers = {"X-User": "ann", "X-Kept": "header", "Authorization": "Bearer secret"}
    body = add_sub() | {"parameters": {"x-kept": "body"}}
    assert (await gateway.post("/v2/models/add_sub/infer", json=body, headers=headers)).status_code == 200
    async with stub(gateway) as client:
        await client.infer(metadata=(("x-user", "bob"), ("y-user", "eve")))
    assert worker.parameters == [{"x-user": "ann", "x-kept": "body"}, {"x-user": "bob"}]


async def test_a_reserved_header_is_refused(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(http_header_forward_pattern=".*")
    answer = await gateway.post("/v2/models/add_sub/infer", json=add_sub(), headers={"priority": "u=1"})
    assert answer.status_code == 400
    assert "reserved" in answer.json()["error"]


async def test_wrong_rules_end_the_start(fleet: Site) -> None:
    for settings in ({"http_restricted_api": ("health",)}, {"http_header_forward_pattern": "("}):
        with pytest.raises(ConfigError):
            await fleet.gateway(**settings)
