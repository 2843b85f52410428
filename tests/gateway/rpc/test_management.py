"""All unary methods but ModelInfer."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

from protocol.proto import descriptor, message_class
from tests.gateway.fleet import ADD_SUB, Running, Site
from tests.gateway.rpc.stub import Stub, message, stub

HEALTH = "/grpc.health.v1.Health"
NUMBER = "version should be an integral value > 0"
UNKNOWN = "Request for unknown model: 'nope' is not found"


async def started(fleet: Site, **settings: Any) -> Running:
    await fleet.worker()
    return await fleet.gateway(grpc_port=0, **settings)


async def test_health_and_metadata(fleet: Site) -> None:
    running = await started(fleet)
    async with stub(running) as client:
        assert (await client.call("ServerLive")).live
        assert (await client.call("ServerReady")).ready
        server = await client.call("ServerMetadata")
        assert server.name == "penstock"
        assert "statistics" in server.extensions
        model = await client.call("ModelMetadata", message("ModelMetadataRequest", name="add_sub"))
        assert [(each.name, list(each.shape)) for each in model.inputs] == [("INPUT0", [-1, 16]), ("INPUT1", [-1, 16])]
        assert list(model.versions) == ["1"]
        for name, version, ready in (("add_sub", "", True), ("add_sub", "9", False), ("nope", "", False)):
            asked = message("ModelReadyRequest", name=name, version=version)
            assert (await client.call("ModelReady", asked)).ready is ready


async def test_configuration_and_statistics(fleet: Site) -> None:
    running = await started(fleet)
    async with stub(running) as client:
        config = (await client.call("ModelConfig", message("ModelConfigRequest", name="add_sub"))).config
        assert config.max_batch_size == ADD_SUB["max_batch_size"]
        assert [each.name for each in config.input] == ["INPUT0", "INPUT1"]
        answer = await client.call("ModelStatistics", message("ModelStatisticsRequest", name="add_sub"))
        (stats,) = answer.model_stats
        assert (stats.name, stats.version) == ("add_sub", "1")
        assert len((await client.call("ModelStatistics")).model_stats) == 1


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        ("ModelMetadata", {"name": "nope"}, ("NOT_FOUND", UNKNOWN)),
        ("ModelConfig", {"name": "nope"}, ("NOT_FOUND", UNKNOWN)),
        ("ModelStatistics", {"name": "nope"}, ("INVALID_ARGUMENT", "requested model 'nope' is not available")),
        (
            "ModelStatistics",
            {"name": "add_sub", "version": "9"},
            ("INVALID_ARGUMENT", "requested model version is not available for model 'add_sub'"),
        ),
        (
            "ModelReady",
            {"name": "add_sub", "version": "x"},
            (
                "INVALID_ARGUMENT",
                f"failed to get model version from specified version string 'x' (details: stol), {NUMBER}",
            ),
        ),
        (
            "RepositoryIndex",
            {"repository_name": "r"},
            ("UNIMPLEMENTED", "'repository_name' specification is not supported"),
        ),
        (
            "RepositoryModelLoad",
            {"model_name": "add_sub", "parameters": {"foo": message("ModelRepositoryParameter", string_param="x")}},
            ("INVALID_ARGUMENT", "unrecognized load parameter 'foo'."),
        ),
        (
            "RepositoryModelLoad",
            {"model_name": "add_sub", "parameters": {"config": message("ModelRepositoryParameter", int64_param=1)}},
            ("INVALID_ARGUMENT", "invalid value type for load parameter 'config', expected string_param."),
        ),
        ("TraceSetting", {"model_name": "nope"}, ("INVALID_ARGUMENT", "Request for unknown model : nope")),
    ],
)
async def test_refusals_in_tritons_words(
    fleet: Site, method: str, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    running = await started(fleet)
    async with stub(running) as client:
        assert await client.refused(message(f"{method}Request", **fields), method) == expected


async def test_the_index_and_settings(fleet: Site) -> None:
    running = await started(fleet)
    async with stub(running) as client:
        (entry,) = (await client.call("RepositoryIndex")).models
        assert (entry.name, entry.version, entry.state) == ("add_sub", "1", "READY")
        trace = message("TraceSettingRequest")
        trace.settings["trace_rate"].value.append("5")
        assert list((await client.call("TraceSetting", trace)).settings["trace_rate"].value) == ["5"]
        assert list((await client.call("TraceSetting")).settings["trace_level"].value) == ["OFF"]
        log = message("LogSettingsRequest")
        log.settings["log_verbose_level"].uint32_param = 1
        assert (await client.call("LogSettings", log)).settings["log_verbose_level"].uint32_param == 1
        log.settings["log_verbose_level"].uint32_param = 0
        assert (await client.call("LogSettings", log)).settings["log_info"].bool_param in (True, False)


async def test_shared_memory_is_refused_unless_it_is_allowed(fleet: Site) -> None:
    running = await started(fleet)
    async with stub(running) as client:
        for method in ("SystemSharedMemoryStatus", "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus"):
            status, text = await client.refused(None, method)
            assert (status, text.startswith("Client shared memory is disabled")) == ("UNIMPLEMENTED", True)


async def test_garbage_and_large_messages_are_invalid(fleet: Site) -> None:
    running = await started(fleet)
    async with stub(running) as client:
        path = "/inference.GRPCInferenceService/ModelConfig"
        status, text = await client.refused(b"\xff\xff", path=path)
        assert (status, "not a ModelConfigRequest" in text) == ("INVALID_ARGUMENT", True)
        assert (await client.refused(b"\x12\x01a" * 30_000, path=path))[0] == "RESOURCE_EXHAUSTED"
        assert (await client.refused(b"\x12\x01a" * 2_000, path=path))[0] == "INVALID_ARGUMENT"
        assert (await client.refused(b"", path="/inference.GRPCInferenceService/Nope"))[0] == "UNIMPLEMENTED"
        assert (await client.refused(b"", path="/x.Y/Z"))[0] == "UNIMPLEMENTED"


async def test_the_standard_health_service(fleet: Site) -> None:
    running = await started(fleet)
    response = message_class("grpc.health.v1.HealthCheckResponse")
    async with stub(running) as client:
        assert response.FromString(await client.raw(b"", f"{HEALTH}/Check")).status == 1  # type: ignore[attr-defined]
        watch = client.channel.unary_stream(f"{HEALTH}/Watch")(b"")
        assert response.FromString(await watch.read()).status == 1  # type: ignore[attr-defined]
        running.gateway.service.draining = True
        assert response.FromString(await watch.read()).status == 2  # type: ignore[attr-defined]
        running.gateway.service.draining = False
        watch.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_every_message(fleet: Site, version: str) -> None:
    running = await started(fleet)
    kind: Any = message_class("grpc.reflection.v1.ServerReflectionRequest")
    answer: Any = message_class("grpc.reflection.v1.ServerReflectionResponse")

    async def ask(client: Stub, **fields: Any) -> Any:
        call = client.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")()
        await call.write(kind(**fields).SerializeToString())
        await call.done_writing()
        return answer.FromString(await call.read())

    async with stub(running) as client:
        services = (await ask(client, list_services="")).list_services_response.service
        assert "inference.GRPCInferenceService" in [each.name for each in services]
        found = await ask(client, file_containing_symbol="inference.GRPCInferenceService")
        assert len(found.file_descriptor_response.file_descriptor_proto) == 2  # with model_config.proto
        assert (await ask(client, file_by_filename="nope")).error_response.error_code == 5
        assert (await ask(client, all_extension_numbers_of_type="x")).error_response.error_code == 5
        assert (await ask(client)).error_response.error_code == 12


async def test_every_method_of_the_service_is_served(fleet: Site) -> None:
    running = await started(fleet)
    service = descriptor("inference.ServerLiveRequest").file.services_by_name["GRPCInferenceService"]
    async with stub(running) as client:
        for method in service.methods:
            path = f"/inference.GRPCInferenceService/{method.name}"
            call = client.channel.stream_stream(path)(timeout=5)
            await call.done_writing()
            expected = grpc.StatusCode.OK if method.client_streaming else grpc.StatusCode.INVALID_ARGUMENT
            assert await call.code() is expected, method.name
