"""Which committed offsets count for a log, at its very end."""

from __future__ import annotations

import pytest
from aiokafka.structs import OffsetAndMetadata

from protocol.transport.kafka.positions import MARK, is_of_log


@pytest.mark.parametrize(
    ("offset", "metadata", "expected"),
    [
        (9, MARK + "t", True), (10, MARK + "t", True), (11, MARK + "t", False), (0, MARK + "t", True),
        (10, "", True), (11, "", False), (10, MARK + "other", False), (10, "somebody's own", True),
    ],
)  # fmt: skip
def test_an_offset_up_to_the_end_of_its_own_log_counts(offset: int, metadata: str, expected: bool) -> None:
    assert is_of_log(OffsetAndMetadata(offset, metadata), 10, "t") is expected
