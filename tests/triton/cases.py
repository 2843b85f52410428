"""Requests that are played against a real Triton (`record`) and against Penstock (`test_against_triton`)."""

from __future__ import annotations

from tests.triton import requests_json, requests_models, requests_values
from tests.triton.case import Case


def cases() -> list[Case]:
    """All of them, in the order in which they are played."""
    found = [
        *requests_json.endpoints(), *requests_json.inputs(), *requests_values.values(), *requests_values.binary(),
        *requests_models.parameters(), *requests_models.outputs(), *requests_models.models(), *requests_models.unanswered(),
    ]  # fmt: skip
    names = [case.name for case in found]
    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]
    return found
