"""Aliases over gRPC."""

from __future__ import annotations

from gateway.repository.aliases import AliasChanges
from protocol.control import AliasRoute
from tests.gateway.fleet import Site
from tests.gateway.rpc.stub import infer_request, message, stub


async def test_an_alias_stands_for_its_version_in_every_call(fleet: Site) -> None:
    for version in ("3", "4"):
        await fleet.worker(version=version, name=f"w{version}")
    running = await fleet.gateway(grpc_port=0)
    await AliasChanges(running.gateway.service).set("add_sub", {"prod": AliasRoute((("3", 1),))})
    async with stub(running) as client:
        answer = await client.infer(infer_request("add_sub@prod"))
        metadata = await client.call("ModelMetadata", message("ModelMetadataRequest", name="add_sub@prod"))
        ready = await client.call("ModelReady", message("ModelReadyRequest", name="add_sub@prod"))
        config = await client.call("ModelConfig", message("ModelConfigRequest", name="add_sub@prod"))
        stats = await client.call("ModelStatistics", message("ModelStatisticsRequest", name="add_sub@prod"))
        unknown = await client.refused(infer_request("add_sub@beta"))

    assert (answer.model_name, answer.model_version) == ("add_sub", "3")
    assert (metadata.name, list(metadata.versions)) == ("add_sub", ["3"])
    assert ready.ready
    assert config.config.name == "add_sub"
    assert [(each.name, each.version) for each in stats.model_stats] == [("add_sub", "3")]
    assert unknown == (
        "NOT_FOUND",
        "Request for unknown model: 'add_sub@beta' is not found: model 'add_sub' has no alias 'beta'",
    )
