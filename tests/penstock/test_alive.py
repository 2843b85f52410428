"""The doctor's report on live workers."""

from __future__ import annotations

from penstock.cli.alive import judged
from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.naming import Names

NAMES = Names()
TOPICS = {NAMES.infer_topic("m", "1"), NAMES.infer_topic("m", "2")}


def beat(worker: str, *loads: tuple[str, str], state: ModelState = ModelState.READY) -> Heartbeat:
    models = tuple(ModelLoad("m", version, state, digest=digest) for version, digest in loads)
    return Heartbeat(worker, "i", "host", 1, 0.0, models)


def test_workers_that_agree_are_counted() -> None:
    beats = [beat("a", ("1", "d1"), ("2", "d2")), beat("b", ("1", "d1"))]

    assert list(judged(beats, TOPICS, NAMES)) == [("ok", "2 worker(s) serve 2 model version(s)")]


def test_one_version_from_two_sets_of_files_is_a_warning_that_names_the_workers() -> None:
    beats = [beat("a", ("1", "d1")), beat("b", ("1", "d2")), beat("c", ("1", "d2")), beat("d", ("1", ""))]

    _, (state, text) = judged(beats, TOPICS, NAMES)

    assert state == "warning"
    assert "model 'm' version 1 is served from 2 different sets of files" in text
    assert "d1 on a; d2 on b, c" in text


def test_two_versions_with_their_own_files_are_no_disagreement() -> None:
    assert len(list(judged([beat("a", ("1", "d1")), beat("b", ("2", "d2"))], TOPICS, NAMES))) == 1


def test_a_version_that_is_being_loaded_is_not_served() -> None:
    beats = [beat("a", ("1", "d1")), beat("b", ("1", "d2"), state=ModelState.LOADING)]

    assert list(judged(beats, TOPICS, NAMES)) == [("ok", "2 worker(s) serve 1 model version(s)")]


def test_a_topic_that_was_deleted_under_a_served_model_is_a_problem() -> None:
    _, (state, text) = judged([beat("a", ("1", "d1"))], set(), NAMES)

    assert state == "problem"
    assert "topic penstock.infer.m.1 of model 'm' version 1 does not exist" in text


def test_no_worker_is_a_warning() -> None:
    assert [state for state, _ in judged([], TOPICS, NAMES)] == ["warning"]
