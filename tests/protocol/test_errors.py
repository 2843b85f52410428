from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MAX_QUOTED, SizeError, quoted

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("A", "'A'"), ("it's", "'it's'"), (b"208 ", "'208 '"), (b"\xff", r"'\xff'"), ("\x1b[31m\0", r"'\x1b[31m\x00'"),
        (None, "null"), (True, "true"), (1.5, "1.5"), (["1", None, [2]], '["1", null, […]]'), ({"a": 1}, "{…}"), ({}, "{}"),
    ],
)  # fmt: skip
def test_a_strangers_value_is_shown_as_json_has_it(value: object, shown: str) -> None:
    assert quoted(value) == shown


@given(VALUES)
def test_whatever_is_shown_is_short_and_can_be_printed(value: object) -> None:
    shown = quoted(value)

    assert shown.isprintable()
    assert len(shown) < 11 * MAX_QUOTED


def test_a_long_value_is_cut() -> None:
    assert quoted("x" * 1000) == f"'{'x' * MAX_QUOTED}…'"
    assert quoted([0] * 1000).endswith("0, …]")


@pytest.mark.parametrize(
    ("error", "model", "text"),
    [
        (SizeError("a", ", b"), "m", "[request id: L] a for model 'm', b"),
        (SizeError("a", ", b"), "", "[request id: L] a, b"),
        (SizeError("a", names_request=False), "m", "a"),
    ],
)
def test_a_wrong_size_is_told_with_the_names_of_model_and_request(error: SizeError, model: str, text: str) -> None:
    assert error.full_text(model, "L") == text
    assert error.message in ("a, b", "a")


PACKAGES = ("gateway", "protocol", "workers")
FILES = [file for package in PACKAGES for file in sorted((Path(__file__).parents[2] / package).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(Path(__file__).parents[2])))
def test_no_error_shows_values_as_python_spells_them(file: Path) -> None:
    raised = [node.exc for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Raise) and node.exc]
    shown = [
        ast.unparse(part.value)
        for error in raised
        for part in ast.walk(error)
        if isinstance(part, ast.FormattedValue) and part.conversion == ord("r")
    ]

    assert [value for value in shown if value not in ("exc", "error")] == []
