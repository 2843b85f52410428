from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CodecError
from protocol.tensors import Tensor, bytes_elements, check_bytes, check_shape, check_size, from_array, pack_bytes
from tests.counting import lines_of
from tests.strategies import arrays, tensors
from tests.walks import walks


@given(arrays)
def test_an_array_survives_the_way_through_a_tensor(array: np.ndarray) -> None:
    back = from_array("x", array).array()

    assert back.dtype == array.dtype
    np.testing.assert_array_equal(array, back)


def test_decoding_is_a_view_of_the_buffer_not_a_copy() -> None:
    buffer = bytearray(np.arange(4, dtype=np.float32).tobytes())

    array = Tensor("x", "FP32", (4,), memoryview(buffer)).array()
    buffer[0:4] = np.float32(42).tobytes()

    assert array[0] == 42


def test_encoding_a_contiguous_array_shares_its_memory() -> None:
    array = np.zeros(4, dtype=np.int64)

    tensor = from_array("x", array)
    array[1] = 7

    assert tensor.array()[1] == 7


def test_big_endian_arrays_become_little_endian() -> None:
    assert bytes(from_array("x", np.array([1], dtype=">i4")).data) == b"\x01\0\0\0"


@given(st.lists(st.binary(max_size=8), max_size=5))
def test_bytes_elements_round_trip(elements: list[bytes]) -> None:
    assert bytes_elements(Tensor("x", "BYTES", (len(elements),), pack_bytes(elements))) == elements


def test_text_becomes_utf8() -> None:
    tensor = from_array("x", np.array(["é", "b"]))

    assert (tensor.datatype, bytes_elements(tensor)) == ("BYTES", ["é".encode(), b"b"])


@pytest.mark.parametrize(
    ("data", "shape", "text"),
    [
        (b"\x01\0\0", (1,), "incomplete string length indicator"),
        (b"\x05\0\0\0ab", (1,), "incomplete string data"),
        (pack_bytes([b"a", b"b"]), (1,), "unexpected number of string elements 2 .* expecting 1"),
        (pack_bytes([b"a"]), (2,), "expected 2 string elements"),
    ],
)
def test_broken_bytes_framing_says_what_is_wrong(data: bytes, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(CodecError, match=text):
        check_size(Tensor("x", "BYTES", shape, data))


@given(tensors(), st.binary(min_size=1, max_size=5))
def test_extra_bytes_are_noticed(tensor: Tensor, extra: bytes) -> None:
    with pytest.raises(CodecError):
        check_size(Tensor(tensor.name, tensor.datatype, tensor.shape, bytes(tensor.data) + extra))


@pytest.mark.parametrize("shape", [[-1], [1.0], [True], ["1"], [2**41], [1] * 33])
def test_hostile_shapes_are_refused(shape: list[object]) -> None:
    with pytest.raises(CodecError, match="input 'x'"):
        check_shape(shape, "input 'x'")


def test_a_dtype_without_a_v2_name_is_refused() -> None:
    with pytest.raises(CodecError, match="complex128"):
        from_array("x", np.zeros(1, dtype=complex))


def test_size_mismatch_has_tritons_words() -> None:
    with pytest.raises(CodecError, match=r"input byte size mismatch for input 'x'. Expected 8, got 3"):
        Tensor("x", "FP32", (2,), b"abc").array()


_LENGTHS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400)), max_size=5)
"""Runs: the number of consecutive elements, and their length."""


@given(_LENGTHS, st.integers(-2, 2), st.integers(0, 2**16), st.integers(0, 255))
def test_a_check_without_elements_says_what_reading_them_would_say(
    runs: list[tuple[int, int]], off: int, at: int, byte: int
) -> None:
    elements = [bytes(size) for size, count in runs for _ in range(count)]
    data = bytearray(pack_bytes(elements))
    if data:
        data[at % len(data)] = byte
    tensor = Tensor("x", "BYTES", (max(0, len(elements) + off),), bytes(data))

    assert _complaint(check_bytes, tensor) == _complaint(bytes_elements, tensor)


def _complaint(look: Callable[[Tensor], object], tensor: Tensor) -> str:
    try:
        look(tensor)
    except CodecError as error:
        return error.message
    return ""


def test_four_million_empty_strings_are_checked_in_few_steps() -> None:
    tensor = Tensor("x", "BYTES", (4 * 2**20,), bytes(16 * 2**20))
    with walks() as seen:
        lines = lines_of(lambda: check_bytes(tensor))

    assert seen == [4 * 2**20]
    assert lines < 1000, "it took nine seconds when each was a turn of a loop"


def test_a_shape_of_more_strings_than_the_data_has_room_for_is_refused_unwalked() -> None:
    data = pack_bytes([b"", b"a"] * 5000)

    tensor = Tensor("x", "BYTES", (2**20,), data)
    assert lines_of(lambda: _complaint(check_bytes, tensor)) < 50
    with pytest.raises(
        CodecError, match="expected 1048576 string elements for inference input 'x', got 11250 or fewer"
    ):
        check_size(Tensor("x", "BYTES", (2**20,), data))


@pytest.mark.parametrize("elements", [[], ["é", "b"], [b"a", b""], [b"a", "é"], [bytearray(b"a")]])
def test_packing_takes_text_and_bytes_alike(elements: list[Any]) -> None:
    wanted = [element.encode() if isinstance(element, str) else bytes(element) for element in elements]

    assert bytes_elements(Tensor("x", "BYTES", (len(elements),), pack_bytes(elements))) == wanted
