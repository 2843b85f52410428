from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue.statistics import metadata, model_stats
from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.model_config import ModelConfig
from tests.gateway.fleet import ADD_SUB, ANY


def stats(requests: int, batches: dict[int, int]) -> dict[str, Any]:
    return {
        "last_inference": requests * 10,
        "inference_count": requests,
        "inference_stats": {"success": {"count": requests, "ns": requests * 100}},
        "batch_stats": [{"batch_size": size, "compute_infer": {"count": n, "ns": n}} for size, n in batches.items()],
    }


def beat(worker: str, statistics: dict[str, Any], model: str = "m") -> Heartbeat:
    return Heartbeat(worker, "1", "h", 1, 0.0, (ModelLoad(model, "1", ModelState.READY, statistics=statistics),))


def test_workers_add_up() -> None:
    (entry,) = model_stats(
        [("m", "1")], [beat("a", stats(3, {8: 1, 1: 2})), beat("b", stats(4, {8: 5})), beat("c", stats(9, {}), "other")]
    )["model_stats"]

    assert (entry["name"], entry["version"]) == ("m", "1")
    assert entry["inference_count"] == 7
    assert entry["last_inference"] == 40
    assert entry["inference_stats"]["success"] == {"count": 7, "ns": 700}
    assert [(row["batch_size"], row["compute_infer"]["count"]) for row in entry["batch_stats"]] == [(1, 2), (8, 6)]


def test_a_version_that_nobody_has_run_shows_zeros() -> None:
    (entry,) = model_stats([("m", "1")], [])["model_stats"]

    assert entry["execution_count"] == 0
    assert entry["inference_stats"]["queue"] == {"count": 0, "ns": 0}
    assert entry["batch_stats"] == []


@given(
    st.lists(st.tuples(st.integers(0, 100), st.dictionaries(st.integers(1, 8), st.integers(0, 9))), max_size=4),
    st.randoms(),
)
def test_the_order_of_workers_does_not_matter(workers: list[tuple[int, dict[int, int]]], random: Any) -> None:
    beats = [beat(str(i), stats(*worker)) for i, worker in enumerate(workers)]
    shuffled = random.sample(beats, len(beats))

    assert model_stats([("m", "1")], beats) == model_stats([("m", "1")], shuffled)


def test_metadata_shows_the_batch_dimension_only_where_there_is_one() -> None:
    batching, flat = ModelConfig.from_json(ADD_SUB), ModelConfig.from_json(ANY)

    assert metadata(batching, ["1", "2"])["inputs"][0] == {"name": "INPUT0", "datatype": "FP32", "shape": [-1, 16]}
    assert metadata(flat, ["1"])["outputs"] == [{"name": "OUT", "datatype": "FP32", "shape": [-1]}]
    assert metadata(batching, ["1", "2"])["platform"] == "identity"
