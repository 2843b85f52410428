"""Triton's trace and log settings: the documents, and which changes are taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.server_settings import LogSettings, TraceSettings
from protocol.errors import FleetError, InvalidArgument, Unsupported

TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
LOG = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


def known(model: str) -> bool:
    return model in ("a", "b")


def test_a_model_overrides_what_the_server_has() -> None:
    settings = TraceSettings(known)
    assert settings.get() == settings.get("a") == TRACE

    assert settings.update("", {"trace_rate": "5"}) == TRACE | {"trace_rate": "5"}
    assert settings.update("a", {"trace_count": "7", "trace_rate": ("9",)})["trace_rate"] == "9"
    assert settings.get("a") == TRACE | {"trace_rate": "9", "trace_count": "7"}
    assert settings.get("b") == TRACE | {"trace_rate": "5"}
    assert settings.update("a", {"trace_rate": None, "trace_count": []}) == TRACE | {"trace_rate": "5"}
    assert settings.update("", {"trace_rate": None}) == TRACE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"trace_level": ["TIMESTAMPS"]}, "Attempting to set invalid trace setting :trace file name is not given"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "Expect only one trace level 'OFF' is specified"),
        ({"trace_level": ["X"]}, "no trace level 'X'"),
        ({"trace_level": "OFF"}, "must be a list"),
        ({"trace_level": [1]}, "list of texts"),
        ({"trace_rate": "x"}, "Unable to parse 'trace_rate', got: x"),
        ({"trace_rate": 5}, "must be a text"),
        ({"trace_rate": "-1"}, "out of range"),
        ({"trace_rate": str(2**32)}, "out of range"),
        ({"trace_rate": "٣"}, "Unable to parse"),
        ({"trace_count": "-2"}, "Unable to parse 'trace_count'. Expecting value >= -1, got:-2"),
        ({"trace_count": "9" * 20}, "value is out of range [ -1, 2147483647 ], got: 99999999999999999999"),
        ({"trace_count": "9" * 5000}, "out of range"),
        ({"log_frequency": "-3"}, "out of range"),
        ({"trace_mode": "opentelemetry"}, "not supported"),
        ({"foo": "1"}, "no trace setting 'foo'"),
        ({"trace_rate": ["1"]}, "must be a text"),
        ({"trace_rate": ("1", "2")}, "must be a text"),
    ],
)
@pytest.mark.parametrize("model", ["", "a"])
def test_what_is_wrong_is_said_and_changes_nothing(model: str, change: dict[str, Any], text: str) -> None:
    settings = TraceSettings(known)

    with pytest.raises(InvalidArgument) as caught:
        settings.update(model, {"log_frequency": "4"} | change)

    assert text in caught.value.message
    assert settings.get(model) == TRACE


def test_the_trace_file_and_unknown_models() -> None:
    settings = TraceSettings(known)
    with pytest.raises(Unsupported, match="trace file location can not be updated through network protocol"):
        settings.update("", {"trace_file": None})
    with pytest.raises(InvalidArgument, match="Request for unknown model : c"):
        settings.get("c")
    with pytest.raises(InvalidArgument, match="Request for unknown model : c"):
        settings.update("c", {})


def test_the_settings_of_models_that_are_gone_are_forgotten() -> None:
    models = {f"m{number}" for number in range(50)}
    settings = TraceSettings(models.__contains__)
    for model in sorted(models):
        settings.update(model, {"trace_rate": "1"})
    models -= {f"m{number}" for number in range(49)}

    settings.update("m49", {"trace_rate": "2"})

    assert len(settings._models) == 1


def test_log_settings_are_told_and_acted_on() -> None:
    settings, acted = LogSettings(), list[dict[str, Any]]()
    settings.on_change = acted.append
    assert settings.get() == LOG

    changed = settings.update({"log_verbose_level": 1, "log_info": False, "log_format": "ISO8601", "log_file": None})

    assert changed == LOG | {"log_verbose_level": 1, "log_info": False, "log_format": "ISO8601"}
    assert acted == [changed]
    settings.update({})
    assert len(acted) == 1


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", {"log_verbose_level": 1}),
        ("info", {}),
        ("warning", {"log_info": False}),
        ("error", {"log_info": False, "log_warning": False}),
    ],
)
def test_the_level_at_the_start_is_told(level: str, expected: dict[str, Any]) -> None:
    assert LogSettings(level).get() == LOG | expected


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"log_info": "false"}, "must be a boolean"),
        ({"log_verbose_level": "1"}, "unsigned integer"),
        ({"log_verbose_level": -1}, "unsigned integer"),
        ({"log_verbose_level": 2**40}, "unsigned integer"),
        ({"log_verbose_level": True}, "unsigned integer"),
        ({"log_format": "x"}, "invalid argument for --log_format, got: x"),
        ({"log_format": 5}, "must be a text"),
        ({"foo": 1}, "no log setting 'foo'"),
        ({"foo": None}, "no log setting 'foo'"),
    ],
)
def test_wrong_log_settings_change_nothing(change: dict[str, Any], text: str) -> None:
    settings = LogSettings()
    with pytest.raises(InvalidArgument) as caught:
        settings.update({"log_error": False} | change)
    assert text in caught.value.message
    assert settings.get() == LOG


def test_the_log_file_cannot_be_changed() -> None:
    with pytest.raises(Unsupported, match="log file location can not be updated through network protocol"):
        LogSettings().update({"log_file": ""})


@given(
    st.dictionaries(
        st.sampled_from([*TRACE, *LOG, "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_whatever_is_sent_raises_only_our_errors(change: dict[str, Any]) -> None:
    trace, log = TraceSettings(known), LogSettings()
    for call in (lambda: trace.update("a", change), lambda: trace.update("", change), lambda: log.update(change)):
        try:
            call()
        except FleetError:
            continue
    assert set(trace.get()) == set(TRACE)
    assert set(log.get()) == set(LOG)
