from __future__ import annotations

from gateway.catalogue.statistics import add_workers, metadata, model_stats
from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.model_config import ModelConfig
from tests.gateway.fleet import ADD_SUB, ANY


def beat(worker: str, load: ModelLoad, at: float = 0.0) -> Heartbeat:
    return Heartbeat(worker, "1", "h", 1, at, (load,))


def test_entries_have_the_totals_of_their_version() -> None:
    first, second = model_stats([("m", "1"), ("m", "2")], [{"ok": 3, "rows": 7}, {"ok": 1}])["model_stats"]

    assert (first["name"], first["version"], second["version"]) == ("m", "1", "2")
    assert (first["inference_count"], first["inference_stats"]["success"]["count"]) == (7, 3)
    assert second["inference_stats"]["success"]["count"] == 1


def test_a_version_that_nobody_has_run_shows_zeros() -> None:
    (entry,) = model_stats([("m", "1")], [{}])["model_stats"]

    assert entry["execution_count"] == 0
    assert entry["inference_stats"]["queue"] == {"count": 0, "ns": 0}
    assert entry["batch_stats"] == []


def test_workers_show_their_own_counts() -> None:
    shown = model_stats([("m", "1"), ("m", "2")], [{}, {}])
    loads = [
        ModelLoad(
            "m",
            version,
            ModelState.READY,
            queued_requests=2,
            running_rows=4,
            lag=9,
            statistics={"inference_count": count},
        )
        for version, count in (("1", 5), ("1", 6), ("2", 7))
    ]
    junk = ModelLoad("m", "1", ModelState.READY, statistics="nonsense")  # type: ignore[arg-type]
    beats = [beat("b", loads[0], at=8.0), beat("a", loads[1], at=11.0), beat("c", loads[2]), beat("d", junk)]
    add_workers(shown, beats, 10.0)
    first, second = shown["model_stats"]

    assert [(w["worker"], w["age_s"], w["inference_count"]) for w in first["workers"]] == [("a", 0.0, 6), ("b", 2.0, 5)]
    assert first["workers"][0] == {
        "worker": "a", "host": "h", "pid": 1, "age_s": 0.0, "state": "READY", "restarts": 0, "queued_requests": 2,
        "running_rows": 4, "lag": 9, "inference_count": 6,
    }  # fmt: skip
    assert [w["worker"] for w in second["workers"]] == ["c"]


def test_metadata_shows_the_batch_dimension_only_where_there_is_one() -> None:
    batching, flat = ModelConfig.from_json(ADD_SUB), ModelConfig.from_json(ANY)

    assert metadata(batching, ["1", "2"])["inputs"][0] == {"name": "INPUT0", "datatype": "FP32", "shape": [-1, 16]}
    assert metadata(flat, ["1"])["outputs"] == [{"name": "OUT", "datatype": "FP32", "shape": [-1]}]
    assert metadata(batching, ["1", "2"])["platform"] == "identity"
