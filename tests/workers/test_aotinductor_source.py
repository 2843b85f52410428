"""The source that torch itself generated says what the model takes and gives; any other text is read or refused, within bounds."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from workers.repository.torch_files.compiled import PackageSignature, signature
from workers.repository.torch_files.signature import ProgramTensor, Size, metadata_of

RECORDED = (Path(__file__).parent / "aotinductor.wrapper.cpp").read_text()
ROWS = Size(least=2, most=64)
MODEL = PackageSignature(
    (ProgramTensor("INPUT__0", "FP32", (ROWS, Size(3))), ProgramTensor("INPUT__1", "BOOL", (ROWS, Size(4)))),
    2,
    ("double", "any"),
)
"""x FP32[rows, 3] and flags BOOL[rows, 4], exported for 1 to 64 rows: inductor checks for at least 2."""
COUNTS = "AOTInductorModelBase(2,\n                           2,"
PIECES = [
    "AOTInductorModelBase(", "static void check_input_0(", "\n}", "(at::kFloat)", "if (3 != x_size[1])", "if (x_size[0] > 64)",
    "x_stride[0])", 'in_spec_ = R"(', ')";', "9" * 5000, "99", "[1, null]", "\x00", "٣,", "\ud800",
]  # fmt: skip


def _look(source: str) -> PackageSignature | None:
    """What the source states, of a size that a person could have written; None if it is refused in our words."""
    try:
        found = signature(source)
    except ConfigError:
        return None
    assert max(found.input_count, len(found.output_names)) < 10_000
    assert all(len(each.sizes) <= 100 for each in found.inputs or ())
    with contextlib.suppress(ConfigError):
        metadata_of(found.inputs or (), ())
    return found


def test_a_source_that_torch_generated_is_read() -> None:
    assert COUNTS in RECORDED
    assert signature(RECORDED) == MODEL


@given(st.integers(0, len(RECORDED)))
def test_a_source_that_is_cut_states_the_whole_signature_or_less(end: int) -> None:
    found = _look(RECORDED[:end])
    if found is not None and found.inputs is not None:
        assert found == MODEL
    elif end > RECORDED.index(COUNTS) + len(COUNTS):
        assert found is None or found.input_count == 2


@pytest.mark.parametrize("source", ["", "\x00", "int main() {}", "AOTInductorModelBase(", "AOTInductorModelBase(a, b,"])
def test_another_text_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="does not say how many inputs and outputs"):
        signature(source)


@pytest.mark.parametrize("count", ["9" * 5000, "1000000000000", "-1"])
def test_absurd_counts_are_refused(count: str) -> None:
    for counts in (f"AOTInductorModelBase({count}, 2,", f"AOTInductorModelBase(2, {count},"):
        with pytest.raises(ConfigError, match="does not say how many inputs and outputs"):
            signature(RECORDED.replace(COUNTS, counts))


@pytest.mark.parametrize("index", ["99999999999", "9" * 5000])
def test_absurd_dimensions_are_no_dimensions(index: str) -> None:
    found = signature(RECORDED.replace("_stride[1])", f"_stride[{index}])"))
    assert found.inputs is not None
    assert [len(each.sizes) for each in found.inputs] == [2, 2]


def test_a_datatype_that_v2_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="input 'INPUT__0' has the datatype ComplexFloat, which the V2 protocol does"):
        signature(RECORDED.replace("(at::kFloat)", "(at::kComplexFloat)"))


def test_a_tree_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match="of an unknown form"):
        signature(RECORDED.replace('out_spec_ = R"([1,', 'out_spec_ = R"([7,'))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", PIECES)
def test_a_source_that_repeats_itself_is_read_in_linear_time(piece: str) -> None:
    _look(COUNTS + piece * (2_000_000 // len(piece)))


@given(st.lists(st.sampled_from([COUNTS, *PIECES]) | st.text(max_size=20), max_size=12), st.integers(0, len(RECORDED)))
def test_pieces_in_any_order_are_read_or_refused(pieces: list[str], place: int) -> None:
    _look("".join(pieces))
    _look(RECORDED[:place] + "".join(pieces) + RECORDED[place:])
