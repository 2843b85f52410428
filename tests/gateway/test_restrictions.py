"""Restricted groups of routes, and headers that become parameters: what decides, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forwarding import ForwardedHeaders
from gateway.restrictions import CATEGORIES, GRPC_PREFIX, Restrictions, method_category, path_category
from protocol.errors import Code, ConfigError, FleetError, InvalidArgument


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("/v2", "metadata"),
        ("/v2/health/live", "health"),
        ("/v2/models/m/ready", "health"),
        ("/v2/models/m/versions/3/ready", "health"),
        ("/v2/models/m", "metadata"),
        ("/v2/models/m/config", "model-config"),
        ("/v2/models/m/versions/1/config", "model-config"),
        ("/v2/models/stats", "statistics"),
        ("/v2/models/m/stats", "statistics"),
        ("/v2/models/m/infer", "inference"),
        ("/v2/models/m/versions/1/generate_stream", "inference"),
        ("/v2/requests/abc", "inference"),
        ("/v2/repository/index", "model-repository"),
        ("/v2/repository/models/m/load", "model-repository"),
        ("/v2/systemsharedmemory/status", "shared-memory"),
        ("/v2/cudasharedmemory/region/r/register", "shared-memory"),
        ("/v2/trace/setting", "trace"),
        ("/v2/models/m/trace/setting", "trace"),
        ("/v2/logging", "logging"),
        ("/openapi.json", "metadata"),
    ],
)
def test_a_path_has_tritons_group(path: str, category: str) -> None:
    assert path_category(path) == category


@pytest.mark.parametrize(
    ("method", "category"),
    [
        ("ModelInfer", "inference"),
        ("ModelStreamInfer", "inference"),
        ("ServerLive", "health"),
        ("ModelReady", "health"),
        ("ServerMetadata", "metadata"),
        ("ModelMetadata", "metadata"),
        ("ModelConfig", "model-config"),
        ("ModelStatistics", "statistics"),
        ("RepositoryModelLoad", "model-repository"),
        ("CudaSharedMemoryStatus", "shared-memory"),
        ("TraceSetting", "trace"),
        ("LogSettings", "logging"),
    ],
)
def test_a_method_has_tritons_group(method: str, category: str) -> None:
    assert method_category(method) == category


def test_a_restricted_group_needs_its_header_and_others_do_not() -> None:
    rules = Restrictions(["model-repository,logging:Admin-Key=se=cret", "statistics:who=me"])
    rules.check("inference", {})
    rules.check("logging", {b"admin-key": b"se=cret"})
    for category, fields in (
        ("logging", {}),
        ("model-repository", {b"admin-key": b"se=cre"}),
        ("statistics", {b"admin-key": b"se=cret"}),
    ):
        with pytest.raises(FleetError, match="This API is restricted, expecting header") as caught:
            rules.check(category, fields)
        assert caught.value.code is Code.PERMISSION_DENIED
        assert "cret" not in caught.value.message


def test_grpc_metadata_has_tritons_prefix() -> None:
    rules = Restrictions(["health:key=v"], GRPC_PREFIX)
    rules.check("health", {b"triton-grpc-protocol-key": b"v"})
    with pytest.raises(FleetError, match="'triton-grpc-protocol-key'"):
        rules.check("health", {b"key": b"v"})


@pytest.mark.parametrize(
    "rule", ["", "health", "health:key", "health:=v", "health:key=", "nothing:key=v", "health:k ey=v", "health,:k=v"]
)
def test_a_malformed_rule_is_refused_without_its_value(rule: str) -> None:
    with pytest.raises(ConfigError):
        Restrictions([rule])


def test_a_group_may_come_once() -> None:
    with pytest.raises(ConfigError, match="two restrictions name group 'health'"):
        Restrictions(["health:a=b", "health,trace:c=d"])


@given(st.sampled_from(CATEGORIES), st.dictionaries(st.binary(max_size=8), st.binary(max_size=8), max_size=3))
def test_no_headers_raise_anything_else(category: str, fields: dict[bytes, bytes]) -> None:
    try:
        Restrictions(["health,inference:key=value"]).check(category, fields)
    except FleetError as error:
        assert error.code is Code.PERMISSION_DENIED  # noqa: PT017


def test_headers_that_match_become_parameters() -> None:
    headers = [("x-user", "ann"), ("x-user-id", "7"), ("accept", "*/*")]
    assert ForwardedHeaders("X-User").parameters(headers) == {"x-user": "ann"}
    assert ForwardedHeaders("x-.*").parameters(headers) == {"x-user": "ann", "x-user-id": "7"}
    assert ForwardedHeaders("(?-i)X-.*").parameters(headers) == {}
    assert not ForwardedHeaders("").open


def test_reserved_names_and_bad_patterns_are_refused() -> None:
    for name in ("priority", "triton_x", "sequence_id"):
        with pytest.raises(InvalidArgument, match="reserved"):
            ForwardedHeaders(".*").parameters([(name, "1")])
    with pytest.raises(ConfigError, match="no regular expression"):
        ForwardedHeaders("(")


@given(st.lists(st.tuples(st.text(max_size=400), st.text(max_size=8)), max_size=4))
def test_any_names_are_taken_or_refused(headers: list[tuple[str, str]]) -> None:
    try:
        found = ForwardedHeaders("x.*|triton.*").parameters(headers)
    except InvalidArgument:
        return
    assert all(name.lower().startswith(("x", "triton")) for name in found)
