"""Triton's routes for shared memory, trace and log settings."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.runtime import logs
from tests.gateway.fleet import ANY, Running, Site

FOLDER = Path("/dev/shm")
SYSTEM = "/v2/systemsharedmemory"
CUDA = "/v2/cudasharedmemory"


@pytest.fixture
def key() -> Iterator[str]:
    """The key of a shared memory object of 64 bytes."""
    path = FOLDER / f"penstock-test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(64))
    yield f"/{path.name}"
    path.unlink()


@pytest.fixture
async def gateway(fleet: Site) -> Running:
    await fleet.worker(ANY)
    return await fleet.gateway(allow_shared_memory=True)


async def test_regions_come_and_go(gateway: Running, key: str) -> None:
    assert "system_shared_memory" in (await gateway.get("/v2")).json()["extensions"]
    assert (await gateway.get(f"{SYSTEM}/status")).json() == []
    for name, more in (("b", {"offset": 16}), ("a", {})):
        answer = await gateway.post(f"{SYSTEM}/region/{name}/register", json={"key": key, "byte_size": 16, **more})
        assert (answer.status_code, answer.content) == (200, b"")
    a, b = ({"name": name, "key": key, "offset": offset, "byte_size": 16} for name, offset in (("a", 0), ("b", 16)))
    assert (await gateway.get(f"{SYSTEM}/status")).json() == [a, b]
    assert (await gateway.get(f"{SYSTEM}/region/b/status")).json() == [b]
    for path, left in (("region/none", [a, b]), ("region/b", [a]), ("", [])):
        assert (await gateway.post(f"{SYSTEM}/{path}/unregister".replace("//", "/"))).content == b""
        assert (await gateway.get(f"{SYSTEM}/status")).json() == left


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "failed to parse the request JSON buffer"), (b"{", 400, "failed to parse"), (b"[]", 400, "a JSON object"),
        (b"{}", 400, "Shared memory register request has no 'key' field"),
        (b'{"key":"/x"}', 400, "Shared memory register request has no 'byte_size' field"),
        (b'{"key":5,"byte_size":8}', 400, "'key' must be a string"), (b'{"key":"/x","byte_size":"8"}', 400, "'byte_size' must be"),
        (b'{"key":"/x","byte_size":-1}', 400, "'byte_size' must be"), (b'{"key":"/x","offset":1.5,"byte_size":8}', 400, "'offset'"),
        (b'{"key":"/missing-of-penstock","byte_size":8}', 404, "Unable to open shared memory region: '/missing-of-penstock'"),
        (b'{"key":"/../etc/passwd","byte_size":8}', 400, "without further slashes"),
        (b'{"key":"/triton_python_backend_shm_region_1","byte_size":8}', 400, "reserved"),
        (b" " * 100_000, 413, "at most"),
    ],
)  # fmt: skip
async def test_wrong_registrations(gateway: Running, body: bytes, status: int, text: str) -> None:
    answer = await gateway.post(f"{SYSTEM}/region/r/register", content=body)
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text


async def test_a_name_is_registered_once_and_needed(gateway: Running, key: str) -> None:
    content = {"key": key, "byte_size": 64}
    await gateway.post(f"{SYSTEM}/region/r/register", json=content)
    again = await gateway.post(f"{SYSTEM}/region/r/register", json=content)
    nameless = await gateway.post(f"{SYSTEM}/register", json=content)
    unknown = await gateway.get(f"{SYSTEM}/region/q/status")
    assert (again.status_code, again.json()) == (400, {"error": "shared memory region 'r' already in manager"})
    assert nameless.json() == {"error": "'region name' is necessary to register system shared memory region"}
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Unable to find system shared memory region: 'q'"})


async def test_cuda_memory_is_refused_with_a_reason(gateway: Running) -> None:
    assert (await gateway.get(f"{CUDA}/status")).json() == []
    unknown = await gateway.get(f"{CUDA}/region/r/status")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Unable to find cuda shared memory region: 'r'"})
    content = {"raw_handle": {"b64": ""}, "device_id": 0, "byte_size": 8}
    refused = await gateway.post(f"{CUDA}/region/r/register", json=content)
    assert (refused.status_code, "GPUs not supported" in refused.text) == (400, True)
    for path in ("unregister", "region/r/unregister"):
        assert (await gateway.post(f"{CUDA}/{path}")).status_code == 200


async def test_trace_settings(gateway: Running) -> None:
    default = (await gateway.get("/v2/trace/setting")).json()
    assert default["trace_level"] == ["OFF"]

    changed = await gateway.post("/v2/models/any/trace/setting", json={"trace_rate": "5"})

    assert changed.json() == default | {"trace_rate": "5"} == (await gateway.get("/v2/models/any/trace/setting")).json()
    assert (await gateway.get("/v2/trace/setting")).json() == default
    cleared = await gateway.post("/v2/models/any/trace/setting", json={"trace_rate": None})
    assert cleared.json() == default


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("trace/setting", {"trace_level": ["TIMESTAMPS"]}, 400), ("trace/setting", {"trace_file": "x"}, 501),
        ("trace/setting", [], 400), ("models/none/trace/setting", {}, 400), ("logging", {"log_file": "x"}, 501),
        ("logging", {"log_info": 1}, 400), ("logging", [], 400),
    ],
)  # fmt: skip
async def test_wrong_settings(gateway: Running, path: str, body: Any, status: int) -> None:
    answer = await gateway.post(f"/v2/{path}", json=body)
    assert (answer.status_code, bool(answer.json()["error"])) == (status, True)


@pytest.fixture
def _own_logging() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    logs.switch(debug=True, info=True, warning=True, error=True)


@pytest.mark.usefixtures("_own_logging")
async def test_log_settings_are_acted_on(fleet: Site, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    gateway = await fleet.gateway()
    log = logging.getLogger("somewhere")

    def shown() -> set[int]:
        capsys.readouterr()
        for level in (10, 20, 30, 40):
            log.log(level, "said at %s", level)
        text = capsys.readouterr().err
        return {level for level in (10, 20, 30, 40) if f"said at {level}" in text}

    assert (await gateway.get("/v2/logging")).json()["log_verbose_level"] == 0
    assert shown() == {20, 30, 40}
    for change, levels in (
        ({"log_verbose_level": 1}, {10, 20, 30, 40}),
        ({"log_info": False, "log_error": False}, {10, 30}),
        ({"log_verbose_level": 0, "log_warning": False}, set()),
        ({"log_error": True}, {40}),
    ):
        answer = await gateway.post("/v2/logging", json=change)
        assert answer.json().items() >= change.items()
        assert shown() == levels
