import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.transport.settings import TransportSettings
from workers.repository.model_files import ModelFile
from workers.settings import MAX_SHARE, WorkerSettings, from_environment, made_up_id, to_environment

words = st.from_regex(r"[a-zA-Z0-9_.-]{1,12}", fullmatch=True)
paths = words.map(lambda word: Path("/models") / word)
positive = st.floats(0.001, 1e6)

workers = st.builds(
    WorkerSettings,
    model_repository=st.lists(paths, max_size=3).map(tuple),
    model_file=st.lists(
        st.builds(ModelFile, paths, words.filter(lambda name: name not in (".", ".."))),
        max_size=2,
        unique_by=lambda file: file.name,
    ).map(tuple),
    model_control_mode=st.just("explicit"),
    load_model=st.lists(words, max_size=3).map(tuple),
    repository_poll_secs=positive,
    exit_on_error=st.booleans(),
    worker=words | st.just(""),
    partitions=st.integers(1, 100),
    metrics_port=st.none() | st.integers(0, 65535),
    drain_grace=positive,
    unload_grace=positive,
    heartbeat_fd=st.none() | st.integers(3, 100),
    max_queued_bytes=st.integers(1, 2**40),
    gpus=st.none() | st.lists(st.integers(0, 7), max_size=3).map(tuple),
    cores=st.integers(0, 64),
    batch_lane_max_ms=positive,
    batch_lane_share=st.floats(0.0, MAX_SHARE),
    fence_ttl=positive,
)
transports = st.builds(
    TransportSettings,
    kafka=st.just("broker:9092"),
    redis=st.just("rediss://store/1"),
    prefix=st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True),
    session_timeout=positive,
    kafka_security=st.dictionaries(st.sampled_from(["security_protocol", "sasl_plain_password", "ssl_cafile"]), words),
) | st.builds(TransportSettings, data_dir=paths, fsync=st.booleans())


@given(workers, transports)
def test_settings_survive_the_environment(worker: WorkerSettings, transport: TransportSettings) -> None:
    environment = to_environment(worker, transport)
    assert all(name.startswith("PENSTOCK_") for name in environment)
    assert from_environment(environment) == (worker, transport)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert from_environment({}) == (WorkerSettings(), TransportSettings())


def test_the_fence_follows_the_session_where_it_is_not_set() -> None:
    worker, transport = from_environment({"PENSTOCK_SESSION_TIMEOUT": "400"})
    assert worker.fence_ttl == transport.fence_ttl == 800.0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PENSTOCK_PARTITIONS", "many", "PENSTOCK_PARTITIONS is 'many'; it must be int"),
        ("PENSTOCK_EXIT_ON_ERROR", "perhaps", "must be bool"),
        ("PENSTOCK_MODEL_CONTROL_MODE", "auto", "must be none, poll or explicit"),
        ("PENSTOCK_LOAD_MODEL", "a b", "only with model_control_mode explicit"),
        ("PENSTOCK_WORKER", "a/b", "must be at most 128 letters"),
        ("PENSTOCK_METRICS_PORT", "70000", "a port is between 0 and 65535"),
        ("PENSTOCK_PARTITIONS", "0", "must be more than 0"),
        ("PENSTOCK_DRAIN_GRACE", "-1", "must not be negative"),
        ("PENSTOCK_BATCH_LANE_MAX_MS", "0", "must be more than 0"),
        ("PENSTOCK_BATCH_LANE_SHARE", "1", "must be between 0 and 0.9"),
        ("PENSTOCK_BATCH_LANE_SHARE", "nan", "must be between 0 and 0.9"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_environment({name: value})


def test_a_path_that_cannot_stand_in_a_list_is_refused() -> None:
    settings = WorkerSettings(model_repository=(Path("/a:b"),))
    with pytest.raises(ConfigError, match="separates entries"):
        to_environment(settings, TransportSettings())


def test_secrets_are_not_shown() -> None:
    transport = TransportSettings(kafka="b", redis="r", kafka_security={"sasl_plain_password": "hush"})
    assert "hush" not in repr(transport)
    assert to_environment(WorkerSettings(), transport)["PENSTOCK_KAFKA_SASL_PASSWORD"] == "hush"


def test_made_up_ids_differ_and_are_valid() -> None:
    ids = {made_up_id() for _ in range(20)}
    assert len(ids) == 20
    for made in ids:
        assert dataclasses.replace(WorkerSettings(), worker=made).worker == made
