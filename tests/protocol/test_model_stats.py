from __future__ import annotations

from typing import Any

from protocol.frames import pack
from protocol.model_stats import DURATIONS, add_stats, encode_duration, encode_model_stats, no_stats

WORKED = encode_model_stats(
    1.5, 3, 1, {"success": encode_duration(2, 0.5)},
    [
        {
            "batch_size": 3,
            "compute_input": encode_duration(1, 0.0),
            "compute_infer": encode_duration(1, 0.25),
            "compute_output": encode_duration(1, 0.0),
        }
    ],
)  # fmt: skip


def test_every_byte_of_a_document() -> None:
    zero = {"count": 0, "ns": 0}
    written = {
        "last_inference": 1500,
        "inference_count": 3,
        "execution_count": 1,
        "inference_stats": {
            "success": {"count": 2, "ns": 500_000_000}, "fail": zero, "queue": zero, "compute_input": zero,
            "compute_infer": zero, "compute_output": zero, "cache_hit": zero, "cache_miss": zero,
        },
        "batch_stats": [
            {
                "batch_size": 3,
                "compute_input": {"count": 1, "ns": 0},
                "compute_infer": {"count": 1, "ns": 250_000_000},
                "compute_output": {"count": 1, "ns": 0},
            }
        ],
        "memory_usage": [],
    }  # fmt: skip
    assert pack(WORKED) == pack(written)


def test_zeros_and_a_document_add_up_to_the_document() -> None:
    total: dict[str, Any] = dict(no_stats())
    add_stats(total, WORKED)
    assert total == {**WORKED, "response_stats": {}}
    assert tuple(total["inference_stats"]) == DURATIONS


def test_a_sum_keeps_the_fields_of_a_newer_worker() -> None:
    total: dict[str, Any] = dict(no_stats())
    for count in (1, 2):
        add_stats(total, {"new": count, "inference_stats": {"new": {"count": count, "ns": 0}}})
    assert (total["new"], total["inference_stats"]["new"]["count"]) == (3, 3)
