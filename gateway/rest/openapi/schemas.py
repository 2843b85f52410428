"""The bodies of requests and responses, as JSON schemas. Pure."""

from __future__ import annotations

from typing import Any, Final

from protocol.tensors import ITEM_SIZE

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
FLAG: Final[Schema] = {"type": "boolean"}
SHAPE: Final[Schema] = {"type": "array", "items": {"type": "integer", "minimum": -1}}
_DATATYPE: Final[Schema] = {"type": "string", "enum": list(ITEM_SIZE)}
_PARAMETERS: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"type": ["string", "integer", "number", "boolean"]},
    "description": "Names that begin with triton_ are reserved.",
}


def ref(name: str) -> Schema:
    """A reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, more: bool = False) -> Schema:
    """An object; without `more`, it has no other fields."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        **({} if more else {"additionalProperties": False}),
    }


_SHARED: Final[dict[str, Schema]] = {
    "shared_memory_region": {**TEXT, "description": "A registered region; with --allow-shared-memory."},
    "shared_memory_offset": COUNT,
    "shared_memory_byte_size": COUNT,
}
_TENSOR: Final = {"name": TEXT, "datatype": _DATATYPE, "shape": listed(COUNT)}
_MEASURED: Final = fields({"count": COUNT, "ns": COUNT})
_COMPUTED: Final = dict.fromkeys(("compute_input", "compute_infer", "compute_output"), _MEASURED)

_MAYBE: Final[Schema] = {"type": ["integer", "null"], "minimum": 0, "description": "null if it is not known"}
_BACKLOG: Final[dict[str, Schema]] = {
    "backlog_requests": COUNT,
    "backlog_rows": COUNT,
    "oldest_age_ms": _MAYBE,
    "rows_per_second": {"type": ["number", "null"], "minimum": 0, "description": "of the ready workers together"},
    "time_to_drain_ms": _MAYBE,
    "ready_workers": COUNT,
    "wanted_workers": COUNT,
}

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": fields({"error": {**TEXT, "description": "What is wrong, where, and what to do."}}),
    "Live": fields({"live": FLAG}),
    "Ready": fields({"ready": FLAG}),
    "ServerMetadata": fields({"name": TEXT, "version": TEXT, "extensions": listed(TEXT)}),
    "TensorMetadata": fields({"name": TEXT, "datatype": _DATATYPE, "shape": SHAPE}),
    "ModelMetadata": fields(
        {
            "name": TEXT,
            "versions": listed(TEXT),
            "platform": TEXT,
            "inputs": listed(ref("TensorMetadata")),
            "outputs": listed(ref("TensorMetadata")),
        }
    ),
    "FleetModels": fields(
        {
            "now_ms": {**COUNT, "description": "The fleet's clock, milliseconds since the epoch."},
            "answer_bounds_ms": {
                **listed({"type": "number"}),
                "description": "Upper bounds of the buckets of `answers`.",
            },
            "models": listed(ref("FleetModel")),
            "workers": listed(ref("FleetWorker")),
            "problem": {
                **TEXT,
                "description": "Why this gateway is not ready; then workers are not looked at. Empty if it is.",
            },
            "metrics": {**TEXT, "description": "HOST:PORT of Prometheus' /metrics; empty where there is none."},
        }
    ),
    "FleetModel": fields(
        {
            "name": TEXT,
            "version": {**TEXT, "description": "Empty for a model that is not loaded."},
            "state": {"enum": ["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]},
            "reason": TEXT,
            "workers": {**COUNT, "description": "Live workers that have it ready."},
            "digests": {**listed(TEXT), "description": "Of the files that they serve."},
            "platform": TEXT,
            "max_batch_size": COUNT,
            "inputs": listed(
                fields({"name": TEXT, "datatype": _DATATYPE, "shape": SHAPE, "optional": FLAG}),
            ),
            "outputs": listed(ref("TensorMetadata")),
            "counts": ref("FleetCounts"),
        }
    ),
    "FleetCounts": {
        **fields(
            {
                "last_inference_ms": COUNT,
                **dict.fromkeys(("success", "failed", "cache_hits", "rows", "queue_ns", "compute_ns"), COUNT),
                "answers": listed({"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2}),
                "answer_ms": fields({name: {"type": ["number", "null"]} for name in ("p50", "p90", "p99")}),
                "batches": listed(fields({"rows": COUNT, "count": COUNT})),
                "releases": {"type": "object", "additionalProperties": COUNT},
            }
        ),
        "description": "Totals of the fleet. success, failed and cache_hits are requests; queue_ns and compute_ns are sums over "
        "successful ones; answers are pairs of a bucket, from 0, and the answers that took so long from acceptance until they were "
        "ready; answer_ms are quantiles of them; batches are by their rows, releases by the reason of the batch's release.",
    },
    "FleetWorker": fields(
        {
            "worker": TEXT,
            "host": TEXT,
            "pid": COUNT,
            "age_ms": {**COUNT, "description": "Of its last heartbeat."},
            "draining": FLAG,
            "restarts": COUNT,
            "ready_models": COUNT,
        }
    ),
    "FleetScaling": fields({"models": listed(ref("LaneScaling"))}),
    "LaneScaling": fields(
        {"model": TEXT, "version": TEXT, "lane": {"enum": ["interactive", "batch"]}, **_BACKLOG, "partitions": COUNT}
    ),
    "ModelScaling": fields({"model": TEXT, "version": TEXT, **_BACKLOG}),
    "ModelConfig": {
        "type": "object",
        "properties": {"name": TEXT, "backend": TEXT, "platform": TEXT, "max_batch_size": {"type": "integer"}},
        "required": ["name"],
        "description": "The completed config.pbtxt as JSON, as Triton writes it.",
    },
    "ModelStatistics": fields({"model_stats": listed(ref("VersionStatistics"))}, more=True),
    "VersionStatistics": fields(
        {
            "name": TEXT,
            "version": TEXT,
            "last_inference": {**COUNT, "description": "Milliseconds since the epoch."},
            "inference_count": COUNT,
            "execution_count": COUNT,
            "inference_stats": {
                "type": "object",
                "additionalProperties": _MEASURED,
                "required": ["success", "fail", "queue", *_COMPUTED],
            },
            "batch_stats": listed(fields({"batch_size": COUNT, **_COMPUTED}, more=True)),
        },
        more=True,
    ),
    "InferInput": {
        **fields(
            _TENSOR,
            {
                "data": {"type": "array", "description": "Flat, or nested in the tensor's shape, row by row."},
                "parameters": {
                    "type": "object",
                    "properties": {"binary_data_size": COUNT, **_SHARED},
                },
            },
            more=True,
        ),
        "description": "Its data is one of: `data`, `binary_data_size` bytes behind the JSON, a part of a shared memory region.",
    },
    "RequestedOutput": fields(
        {"name": TEXT},
        {
            "parameters": {
                "type": "object",
                "properties": {
                    "binary_data": FLAG,
                    "classification": {**COUNT, "description": "How many of the highest elements are wanted, as text."},
                    **_SHARED,
                },
            }
        },
        more=True,
    ),
    "InferRequest": fields(
        {"inputs": listed(ref("InferInput"))},
        {
            "id": TEXT,
            "outputs": {**listed(ref("RequestedOutput")), "description": "All outputs, if none is listed."},
            "parameters": {
                **_PARAMETERS,
                "properties": {
                    "priority": COUNT,
                    "timeout": {**COUNT, "description": "Microseconds in the queue."},
                    "binary_data_output": FLAG,
                    "sequence_id": {"anyOf": [COUNT, TEXT]},
                    "sequence_start": FLAG,
                    "sequence_end": FLAG,
                    "penstock_lane": {"enum": ["interactive", "batch"]},
                },
            },
        },
        more=True,
    ),
    "InferResponse": fields(
        {
            "model_name": TEXT,
            "model_version": TEXT,
            "outputs": listed(
                fields(
                    _TENSOR,
                    {"data": {"type": "array"}, "parameters": fields({"binary_data_size": COUNT})},
                )
            ),
        },
        {"id": TEXT, "parameters": {"type": "object"}},
    ),
    "GenerateRequest": {
        "type": "object",
        "properties": {"id": TEXT, "parameters": {"type": "object"}},
        "description": "A key that names an input is its data, a scalar or a flat list; every other key is a parameter.",
    },
    "GenerateResponse": fields({"model_name": TEXT, "model_version": TEXT}, {"id": TEXT}, more=True),
    "Event": fields(
        {"data": {**TEXT, "contentMediaType": "application/json", "description": "A GenerateResponse, or an Error."}},
        more=True,
    ),
    "RepositoryIndex": listed(
        fields(
            {"name": TEXT, "version": TEXT, "state": {"enum": ["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]}},
            {"reason": TEXT},
            more=True,
        )
    ),
    "IndexRequest": fields({}, {"ready": FLAG, "repository_name": TEXT}, more=True),
    "LoadRequest": fields(
        {},
        {
            "parameters": {
                "type": "object",
                "properties": {
                    "config": {**TEXT, "description": "JSON of a configuration that replaces the repository's."},
                    "replicas": COUNT,
                    "pinned": FLAG,
                    "lease_s": {"type": "number", "minimum": 0},
                    "idle_after_s": {"type": "number", "minimum": 0},
                    "digests": listed(TEXT),
                },
                "patternProperties": {"^file:": {**TEXT, "description": "A file of the model in base64, by its path."}},
            }
        },
        more=True,
    ),
    "UnloadRequest": fields(
        {}, {"parameters": {"type": "object", "properties": {"unload_dependents": FLAG}}}, more=True
    ),
    "Document": {"type": "object"},
    "Route": fields(
        {},
        {
            "versions": {
                "type": "object",
                "additionalProperties": {"type": "integer", "minimum": 0},
                "description": "Weights by version.",
            },
            "shadow": fields({"version": TEXT}, {"share": {"type": "number"}}),
        },
        more=True,
    ),
    "RequestState": fields(
        {"id": TEXT, "state": {"enum": ["queued", "running", "done", "cancelled"]}},
        {"model_name": TEXT, "model_version": TEXT, "age_s": {"type": "number"}, "location": TEXT},
    ),
    "SystemRegions": listed(fields({"name": TEXT, "key": TEXT, "offset": COUNT, "byte_size": COUNT})),
    "SystemRegister": fields({"key": TEXT, "byte_size": COUNT}, {"offset": COUNT}, more=True),
    "CudaRegions": listed({"type": "object"}),
    "CudaRegister": fields({"raw_handle": fields({"b64": TEXT}), "device_id": COUNT, "byte_size": COUNT}, more=True),
    "TraceSettings": fields(
        {
            "trace_level": listed({"enum": ["OFF", "TIMESTAMPS", "TENSORS"]}),
            "trace_rate": TEXT,
            "trace_count": TEXT,
            "log_frequency": TEXT,
            "trace_file": TEXT,
            "trace_mode": TEXT,
        }
    ),
    "TraceChange": fields(
        {},
        {
            "trace_level": {"type": ["array", "null"], "items": {"enum": ["OFF"]}, "maxItems": 1},
            **{name: {"type": ["string", "null"]} for name in ("trace_rate", "trace_count", "log_frequency")},
        },
    ),
    "LogSettings": fields(
        {
            "log_file": TEXT,
            "log_info": FLAG,
            "log_warning": FLAG,
            "log_error": FLAG,
            "log_verbose_level": COUNT,
            "log_format": {"enum": ["default", "ISO8601"]},
        }
    ),
    "LogChange": fields(
        {},
        {
            **{name: {"type": ["boolean", "null"]} for name in ("log_info", "log_warning", "log_error")},
            "log_verbose_level": {"type": ["integer", "null"], "minimum": 0, "maximum": 2**31 - 1},
            "log_format": {"enum": ["default", "ISO8601", None]},
        },
    ),
}
