"""What the metadata of a ScaledObject's trigger means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scaler.metadata import KEYS, MAX_MODELS, trigger_of
from gateway.scaling.wanted import Policy
from protocol.errors import FleetError, InvalidArgument


def test_only_the_models_are_needed() -> None:
    trigger = trigger_of({"models": "a, b ,,a", "scalerAddress": "scaler:6000"})
    assert trigger.models == {"a", "b"}
    assert trigger.policy == Policy()
    assert trigger.tolerance == 0.1


def test_every_key_has_its_meaning() -> None:
    trigger = trigger_of(
        {
            "models": "m", "drainTargetSeconds": "2.5", "batchDrainTargetSeconds": "60", "minReplicas": "1", "maxReplicas": "7",
            "scaleDownWindowSeconds": "0", "coldStartSeconds": "5", "tolerance": "0",
        }
    )  # fmt: skip
    assert trigger.policy == Policy(2.5, 60.0, 1, 7, 0.0, 5.0)
    assert trigger.tolerance == 0.0
    assert trigger_of({"models": "m", "drainTargetSeconds": ""}).policy == Policy(), "an empty text is not given"


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "lacks models"), ({"models": " , "}, "lacks models"), ({"models": "m", "drainTarget": "1"}, "no key"),
        ({"models": "m", "drainTargetSeconds": "0"}, "target is 0"), ({"models": "m", "drainTargetSeconds": "ten"}, "a number"),
        ({"models": "m", "drainTargetSeconds": "nan"}, "a number"), ({"models": "m", "maxReplicas": "1.5"}, "whole number"),
        ({"models": "m", "maxReplicas": "²"}, "whole number"), ({"models": "m", "minReplicas": "3", "maxReplicas": "2"}, "ordered"),
        ({"models": "m", "tolerance": "1"}, "less than 1"), ({"models": "x" * 100_000}, "characters"),
        ({"models": ",".join(f"m{n}" for n in range(MAX_MODELS + 1))}, "may share workers"), ({"models": "\ud800"}, "Unicode"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(metadata: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        trigger_of(metadata)


@given(st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), st.text(max_size=12), max_size=8))
def test_whatever_is_sent_is_understood_or_refused(metadata: dict[str, str]) -> None:
    try:
        trigger = trigger_of({"models": "m", **metadata})
    except FleetError:
        return
    assert trigger.models
    assert 0 <= trigger.policy.least <= trigger.policy.most
