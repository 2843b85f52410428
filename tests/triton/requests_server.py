"""Requests about the server: trace and log settings, shared memory, statistics, metrics, and loading models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.triton.case import Case, Json, RpcCase, get, infer, metrics, post, rpc, rpc_infer, tensor
from tests.triton.requests_rpc import FLOATS, X

ROW: Json = {"inputs": [tensor("X", "FP32", [1, 2])]}


def settings() -> Iterator[Case | RpcCase]:
    yield get("trace settings", "/v2/trace/setting")
    yield get("trace settings of a model", "/v2/models/sum/trace/setting")
    yield get("trace settings of an unknown model", "/v2/models/missing/trace/setting")
    yield rpc("trace settings", "TraceSetting")
    yield rpc("trace settings of a model", "TraceSetting", model_name="sum")
    yield rpc("trace settings of an unknown model", "TraceSetting", model_name="missing")
    good: list[Any] = [
        {"trace_rate": "500"},
        {"trace_count": "10"},
        {"log_frequency": "2"},
        {"trace_level": ["TIMESTAMPS"]},
        {},
    ]
    bad: list[Any] = [
        {"trace_rate": 500}, {"trace_rate": "many"}, {"trace_level": ["LOUD"]}, {"trace_level": "OFF"}, {"trace_file": "/tmp/t"},
        {"nothing": "1"}, {"trace_mode": "other"}, {"trace_count": "-5"},
    ]  # fmt: skip
    for change in (*good, *bad):
        yield post(f"trace settings: {json.dumps(change)}", "/v2/models/sum/trace/setting", change)
    yield get("trace settings of a model, changed", "/v2/models/sum/trace/setting")
    yield post("trace settings that are no JSON", "/v2/trace/setting", b"{")
    cleared = {"trace_rate": None, "trace_count": None, "log_frequency": None, "trace_level": None}
    yield post("trace settings of a model cleared", "/v2/models/sum/trace/setting", cleared)
    for key, value in (("trace_rate", "500"), ("trace_level", "TIMESTAMPS"), ("trace_file", "x"), ("nothing", "1")):
        yield rpc(f"trace setting {key}", "TraceSetting", model_name="sum", settings={key: {"value": [value]}})
    yield rpc(
        "trace settings cleared", "TraceSetting", model_name="sum", settings={"trace_rate": {}, "trace_level": {}}
    )
    yield get("log settings", "/v2/logging")
    yield rpc("log settings", "LogSettings")
    for change in (
        {"log_verbose_level": 1}, {"log_info": False}, {"log_info": True}, {"log_verbose_level": 0}, {"log_format": "ISO8601"},
        {"log_format": "default"}, {"log_file": "/tmp/log"}, {"log_info": "yes"}, {"log_verbose_level": -1},
        {"log_verbose_level": "1"},
        {"log_format": "other"}, {"nothing": 1}, {},
    ):  # fmt: skip
        yield post(f"log settings: {json.dumps(change)}", "/v2/logging", change)
    yield rpc("log setting log_info", "LogSettings", settings={"log_info": {"bool_param": True}})
    yield rpc("log setting log_verbose_level", "LogSettings", settings={"log_verbose_level": {"uint32_param": 0}})
    yield rpc("log setting log_info as text", "LogSettings", settings={"log_info": {"string_param": "x"}})
    yield rpc("log setting log_file", "LogSettings", settings={"log_file": {"string_param": "x"}})
    yield rpc("log setting nothing", "LogSettings", settings={"nothing": {"bool_param": True}})


def shared_memory() -> Iterator[Case | RpcCase]:
    key = "/penstock_no_such_key"
    for kind, rpc_name in (("system", "SystemSharedMemory"), ("cuda", "CudaSharedMemory")):
        base = f"/v2/{kind}sharedmemory"
        yield get(f"{kind} shared memory", f"{base}/status")
        yield get(f"{kind} shared memory of an unknown region", f"{base}/region/r/status")
        yield post(f"{kind} shared memory: unregister all", f"{base}/unregister")
        yield post(f"{kind} shared memory: unregister an unknown region", f"{base}/region/r/unregister")
        yield post(f"{kind} shared memory: register nothing", f"{base}/region/r/register", {})
        yield rpc(f"{kind} shared memory", f"{rpc_name}Status")
        yield rpc(f"{kind} shared memory of an unknown region", f"{rpc_name}Status", name="r")
        yield rpc(f"{kind} shared memory: unregister all", f"{rpc_name}Unregister")
        yield rpc(f"{kind} shared memory: unregister an unknown region", f"{rpc_name}Unregister", name="r")
    register = {"key": key, "offset": 0, "byte_size": 8}
    yield post("shared memory: a key that is not there", "/v2/systemsharedmemory/region/r/register", register)
    yield rpc("shared memory: a key that is not there", "SystemSharedMemoryRegister", name="r", **register)


def statistics() -> Iterator[Case | RpcCase]:
    """Counts of a model that nothing else calls."""
    path = "/v2/models/counted"
    yield get("statistics of no call", f"{path}/stats")
    yield metrics("metrics of no call", "counted")
    for number in range(3):
        yield infer(f"counted call {number}", "counted", ROW | {"id": str(number)})
    rows = {"inputs": [tensor("X", "FP32", [3, 2], [1, 2] * 3)]}
    yield infer("counted call of three rows", "counted", rows)
    yield rpc_infer("counted call", "counted", X, FLOATS)
    yield infer("counted call that fails", "counted", {"inputs": [tensor("X", "FP32", [1, 2], [-1, 2])]})
    yield infer("counted call that is refused", "counted", {"inputs": [tensor("X", "FP32", [1, 3], [1, 2, 3])]})
    yield rpc_infer("counted call that is refused", "counted", [], id="r1")
    yield get("statistics of some calls", f"{path}/stats")
    yield get("statistics of a version", f"{path}/versions/1/stats")
    yield rpc("statistics of some calls", "ModelStatistics", name="counted")
    yield metrics("metrics of some calls", "counted")
    yield infer("counted call whose answer is an error", "counted", {"inputs": [tensor("X", "FP32", [1, 2], [-2, 2])]})
    yield get("statistics after an answer that is an error", f"{path}/stats")


def control() -> Iterator[Case | RpcCase]:
    """Loads and unloads of a model that nothing else calls."""
    at = "/v2/repository/models"
    yield get("a model before it is unloaded", "/v2/models/loadable/ready")
    yield post("unload", f"{at}/loadable/unload")
    yield get("ready of an unloaded model", "/v2/models/loadable/ready")
    yield get("metadata of an unloaded model", "/v2/models/loadable")
    yield infer("infer of an unloaded model", "loadable", ROW)
    yield rpc_infer("infer of an unloaded model", "loadable", X, FLOATS)
    yield post("unload again", f"{at}/loadable/unload")
    yield post("load", f"{at}/loadable/load")
    yield infer("infer of a loaded model", "loadable", ROW)
    yield post("load again", f"{at}/loadable/load")
    yield post("load with an empty object", f"{at}/loadable/load", {})
    config = {"backend": "python", "max_batch_size": 2, "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}],
              "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2]}]}  # fmt: skip
    yield post("load with a configuration", f"{at}/loadable/load", {"parameters": {"config": json.dumps(config)}})
    yield get("metadata of the other configuration", "/v2/models/loadable")
    yield infer(
        "three rows, where two are the most", "loadable", {"inputs": [tensor("X", "FP32", [3, 2], [1] * 6)], "id": "r1"}
    )
    yield post("load with a configuration that is no JSON", f"{at}/loadable/load", {"parameters": {"config": "{"}})
    yield post("load with a configuration that is no text", f"{at}/loadable/load", {"parameters": {"config": {}}})
    yield post("load with an unknown parameter", f"{at}/loadable/load", {"parameters": {"nothing": 1}})
    yield post("load with a body that is no JSON", f"{at}/loadable/load", b"{")
    yield post("load with a body that is a list", f"{at}/loadable/load", [])
    yield infer("a load that failed leaves the model", "loadable", ROW)
    yield post("load of an unknown model", f"{at}/missing/load")
    yield post("unload of an unknown model", f"{at}/missing/unload")
    yield post("load of a broken model", f"{at}/broken/load")
    yield post("load from another repository", "/v2/repository/other/models/loadable/load")
    yield post("index of another repository", "/v2/repository/other/index")
    yield get("wrong method on load", f"{at}/loadable/load")
    yield rpc("unload", "RepositoryModelUnload", model_name="loadable")
    yield rpc("ready of an unloaded model", "ModelReady", name="loadable")
    yield rpc("load", "RepositoryModelLoad", model_name="loadable")
    yield rpc("ready of a loaded model", "ModelReady", name="loadable")
    override = {"config": {"string_param": json.dumps(config)}}
    yield rpc("load with a configuration", "RepositoryModelLoad", model_name="loadable", parameters=override)
    yield rpc(
        "load with an unknown parameter",
        "RepositoryModelLoad",
        model_name="loadable",
        parameters={"nothing": {"string_param": "1"}},
    )
    yield rpc("load of an unknown model", "RepositoryModelLoad", model_name="missing")
    yield rpc("load of no name", "RepositoryModelLoad")
    yield rpc("unload of an unknown model", "RepositoryModelUnload", model_name="missing")
    yield rpc(
        "unload with dependents",
        "RepositoryModelUnload",
        model_name="loadable",
        parameters={"unload_dependents": {"bool_param": True}},
    )
    yield rpc(
        "unload with a parameter of a wrong kind",
        "RepositoryModelUnload",
        model_name="loadable",
        parameters={"unload_dependents": {"string_param": "x"}},
    )
