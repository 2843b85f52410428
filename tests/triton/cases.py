"""Requests that are played against a real Triton and against Penstock."""

from __future__ import annotations

from tests.triton import (
    requests_json,
    requests_models,
    requests_ordinary,
    requests_rpc,
    requests_server,
    requests_values,
)
from tests.triton.case import Case, RpcCase


def cases() -> list[Case | RpcCase]:
    """All of them, in the order in which they are played."""
    found: list[Case | RpcCase] = [
        *requests_json.endpoints(), *requests_json.inputs(), *requests_values.values(), *requests_values.binary(),
        *requests_models.parameters(), *requests_models.outputs(), *requests_models.models(),
        *requests_ordinary.ordinary(), *requests_rpc.endpoints(), *requests_rpc.inputs(), *requests_rpc.parameters(),
        *requests_rpc.outputs(), *requests_rpc.models(), *requests_rpc.streams(),
        *requests_server.settings(), *requests_server.shared_memory(), *requests_server.statistics(), *requests_server.control(),
        *requests_models.unanswered(),
    ]  # fmt: skip
    names = [case.name for case in found]
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})
    return found
