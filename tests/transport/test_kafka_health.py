from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.transport.kafka.health import LASTING, FetchHealth


@given(st.lists(st.tuples(st.booleans(), st.floats(0, LASTING)), max_size=30))
def test_a_failure_is_told_once_it_has_lasted_and_until_the_first_success(steps: list[tuple[bool, float]]) -> None:
    trouble, now = FetchHealth(), 0.0
    since: float | None = None
    for number, (fails, pause) in enumerate(steps):
        now += pause
        if fails:
            since = now if since is None else since
            trouble.failed(f"reason {number}", now)
        else:
            since = None
            trouble.succeeded()
        lasting = since is not None and now - since >= LASTING
        assert trouble.lasting_failure(now) == (f"reason {number}" if lasting else "")
