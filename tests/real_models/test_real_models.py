"""Every file that people have is served by one command, or refused with what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from tests.real_models.cases import Refused, Served
from tests.real_models.packages import NotInstalled, installed
from tests.real_models.page import PAGE, page
from tests.real_models.running import Outcome, key, run_all
from tests.real_models.table import REFUSED, SERVED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("real_models")]

IN_CI = os.environ.get("HYPOTHESIS_PROFILE") == "fixed"
"""Which .ci/run sets."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    try:
        packages = installed()
    except NotInstalled as error:
        if IN_CI:
            raise
        pytest.skip(f"the packages with the models cannot be installed here: {error}")
    return run_all(packages, tmp_path_factory.mktemp("real_models"))


@pytest.mark.parametrize("case", SERVED, ids=key)
def test_a_file_is_served_and_answers_as_its_framework_does(case: Served, outcomes: Mapping[str, Outcome]) -> None:
    assert outcomes[key(case)].problem == ""


@pytest.mark.parametrize("case", REFUSED, ids=key)
def test_a_file_is_refused_with_what_to_do(case: Refused, outcomes: Mapping[str, Outcome]) -> None:
    assert outcomes[key(case)].problem == ""


def test_the_page_is_what_the_run_shows(outcomes: Mapping[str, Outcome]) -> None:
    """Regenerate it with: python -m tests.real_models"""
    assert PAGE.read_text() == page(outcomes)
