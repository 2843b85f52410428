import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CodecError, ModelFailed
from protocol.messages import InferRequest
from protocol.model_config import ModelConfig
from protocol.model_config.parts import TensorSpec
from protocol.tensors import ITEM_SIZE, Array, Tensor, element_count, from_array, pack_bytes
from workers.backends.assembly import SMALL, Assembly
from workers.repository.signature import Signature

CONFIG = ModelConfig(
    name="m",
    max_batch_size=8,
    inputs=(TensorSpec("A", "FP32", (2,)), TensorSpec("S", "BYTES", (1,), optional=True)),
    outputs=(TensorSpec("Y", "FP32", (2,)), TensorSpec("T", "BYTES", (-1,))),
)


def row(*values: float, outputs: tuple[str, ...] = ()) -> InferRequest:
    array = np.array(values, np.float32).reshape(-1, 2)
    return InferRequest("id", "m", "1", (from_array("A", array),), outputs)


def test_rows_are_stacked_in_order() -> None:
    stacked = Assembly(CONFIG).stack([row(1, 2), row(3, 4, 5, 6)])
    assert stacked.rows == 3
    assert stacked.inputs["A"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert stacked.inputs["A"].flags.writeable
    assert list(stacked.inputs) == ["A"]


def test_a_batch_of_one_is_a_view_of_the_record() -> None:
    buffer = np.array([[1, 2]], np.float32)
    request = InferRequest("id", "m", "1", (Tensor("A", "FP32", (1, 2), buffer.tobytes()),))
    array = Assembly(CONFIG).stack([request]).inputs["A"]
    assert np.shares_memory(array, np.frombuffer(request.inputs[0].data, np.uint8))


def test_an_unaligned_batch_of_one_is_copied_into_place() -> None:
    record = memoryview(b"x" + np.array([[1, 2]], np.float32).tobytes())
    array = (
        Assembly(CONFIG).stack([InferRequest("id", "m", "1", (Tensor("A", "FP32", (1, 2), record[1:]),))]).inputs["A"]
    )
    assert array.flags.aligned
    assert array.tolist() == [[1, 2]]


def test_bytes_become_object_arrays() -> None:
    requests = [
        dataclasses.replace(row(0, 0), inputs=(Tensor("S", "BYTES", (1, 1), pack_bytes([text])),))
        for text in (b"a", b"")
    ]
    array = Assembly(CONFIG).stack(requests).inputs["S"]
    assert array.dtype == object
    assert array.tolist() == [[b"a"], [b""]]


def test_bytes_that_do_not_match_the_shape_are_refused() -> None:
    wrong = InferRequest("id", "m", "1", (Tensor("A", "FP32", (1, 2), b"1234"),))
    with pytest.raises(CodecError, match="12 bytes are not FP32"):
        Assembly(CONFIG).stack([row(1, 2), wrong])


def test_a_model_that_does_not_batch_sees_its_own_shape() -> None:
    plain = dataclasses.replace(CONFIG, max_batch_size=0)
    request = InferRequest("id", "m", "1", (from_array("A", np.array([1, 2], np.float32)),))
    assert Assembly(plain).stack([request]).inputs["A"].tolist() == [1, 2]
    outputs = {"Y": np.array([3, 4], np.float32), "T": np.array([b"x"], object)}
    (share,) = Assembly(plain).cut([request], outputs)
    assert [tensor.shape for tensor in share] == [(2,), (1,)]
    with pytest.raises(ValueError, match="does not batch"):
        Assembly(plain).stack([request, request])


def test_outputs_are_cut_by_rows() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    requests = [row(1, 2), row(3, 4, 5, 6)]
    first, second = Assembly(CONFIG).cut(requests, {"Y": array, "T": np.array([["a"], [b"b"], ["c"]], object)})
    assert first[0].array().tolist() == [[0, 1]]
    assert second[0].array().tolist() == [[2, 3], [4, 5]]
    assert second[1].array().tolist() == [[b"b"], [b"c"]]


@pytest.mark.parametrize(("count", "shared"), [(SMALL // 4, False), (SMALL // 4 + 1, True)])
def test_outputs_are_views_unless_they_are_small(count: int, shared: bool) -> None:
    outputs = (TensorSpec("Y", "FP32", (-1,)),)
    array = np.arange(count, dtype=np.float32).reshape(1, -1)
    (share,) = Assembly(dataclasses.replace(CONFIG, outputs=outputs)).cut([row(1, 2)], {"Y": array})
    assert share[0].array().tolist() == array.tolist()
    assert np.shares_memory(share[0].array(), array) is shared


def test_each_size_is_checked_however_alike_the_outputs_were_before() -> None:
    assembly, requests, text = Assembly(CONFIG), [row(1, 2)], np.array([["a"]])
    for _ in range(2):
        (share,) = assembly.cut(requests, {"Y": np.ones((1, 2), np.float32), "T": text})
        assert [tensor.shape for tensor in share] == [(1, 2), (1, 1)]
        (share,) = assembly.cut(requests, {"Y": np.ones((1, 2), ">f4"), "T": np.array([["a", "b"]])})
        assert share[0].array().tolist() == [[1, 1]]
        assert share[1].shape == (1, 2)
        for wrong in (np.ones((1, 3), np.float32), np.ones((2, 2), np.float32), np.ones((1, 2))):
            with pytest.raises(ModelFailed):
                assembly.cut(requests, {"Y": wrong, "T": text})


def test_only_the_wanted_outputs_are_returned_in_the_wanted_order() -> None:
    array, text = np.zeros((3, 2), np.float32), np.array([["a"]] * 3)
    requests = [row(1, 2, outputs=("T",)), row(1, 2), row(1, 2, outputs=("T", "Y"))]
    shares = Assembly(CONFIG).cut(requests, {"Y": array, "T": text})
    assert [[tensor.name for tensor in share] for share in shares] == [["T"], ["Y", "T"], ["T", "Y"]]


def test_an_output_that_nobody_wants_need_not_be_there() -> None:
    requests = [row(1, 2, outputs=("Y",))]
    assert Assembly(CONFIG).wanted_outputs(requests) == ("Y",)
    assert len(Assembly(CONFIG).cut(requests, {"Y": np.zeros((1, 2), np.float32)})[0]) == 1


TEXT = np.array([["a"]])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"T": TEXT}, r"returned no output 'Y'; it returned \['T'\]"),
        ({"T": TEXT, "Y": np.zeros((2, 2), np.float32)}, r"'Y' with shape \[2, 2\] for a batch of 1 rows"),
        ({"T": TEXT, "Y": np.zeros((), np.float32)}, r"'Y' with shape \[\] for a batch"),
        ({"T": TEXT, "Y": np.zeros((1, 3), np.float32)}, r"'Y' with dims \[3\]; its configuration says \[2\]"),
        ({"T": TEXT, "Y": np.zeros((1, 2))}, "'Y' as FP64; its configuration says FP32"),
        ({"T": TEXT, "Y": np.zeros((1, 2), np.complex64)}, "'Y' as complex64"),
        ({"T": TEXT, "Y": [[1.0, 2.0]]}, "'Y' as list; it must be a NumPy array"),
        ({"T": np.array([[7]], object), "Y": np.zeros((1, 2), np.float32)}, "'T' with an element of type int"),
    ],
)
def test_an_output_that_breaks_the_configuration_is_the_models_fault(outputs: dict[str, Array], message: str) -> None:
    with pytest.raises(ModelFailed, match=message):
        Assembly(CONFIG).cut([row(1, 2)], outputs)


def test_reshape_shows_the_caller_dims_and_the_model_its_own() -> None:
    config = ModelConfig(
        name="r",
        max_batch_size=4,
        inputs=(TensorSpec("A", "FP32", (-1, 4), reshape=(-1, 2, 2)),),
        outputs=(TensorSpec("Y", "FP32", (1,), reshape=()),),
    )
    requests = [
        InferRequest("id", "r", "1", (from_array("A", np.zeros((1, 3, 4), np.float32)),)),
        InferRequest("id", "r", "1", (from_array("A", np.zeros((2, 3, 4), np.float32)),)),
    ]
    assert Assembly(config).stack(requests).inputs["A"].shape == (3, 3, 2, 2)
    shares = Assembly(config).cut(requests, {"Y": np.arange(3, dtype=np.float32)})
    assert [share[0].shape for share in shares] == [(1, 1), (2, 1)]
    assert shares[1][0].array().tolist() == [[1], [2]]


def test_bf16_passes_as_its_bits() -> None:
    config = ModelConfig(
        name="b", max_batch_size=4, inputs=(TensorSpec("A", "BF16", (2,)),), outputs=(TensorSpec("Y", "BF16", (2,)),)
    )
    request = InferRequest("id", "b", "1", (Tensor("A", "BF16", (1, 2), b"abcd"),))
    (share,) = Assembly(config).cut([request], {"Y": Assembly(config).stack([request]).inputs["A"]})
    assert (share[0].datatype, bytes(share[0].data)) == ("BF16", b"abcd")


@st.composite
def batches(draw: st.DrawFn) -> tuple[ModelConfig, list[InferRequest]]:
    """A configuration of 1 to 3 inputs that are also its outputs, and requests of one shape class."""
    batching = draw(st.booleans())
    datatypes = draw(st.lists(st.sampled_from(tuple(ITEM_SIZE)), min_size=1, max_size=3))
    sizes = [tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=2))) for _ in datatypes]
    specs = tuple(
        TensorSpec(f"T{index}", datatype, (-1,) * len(size))
        for index, (datatype, size) in enumerate(zip(datatypes, sizes, strict=True))
    )
    config = ModelConfig(name="m", max_batch_size=9 if batching else 0, inputs=specs, outputs=specs)
    requests = []
    for number in range(draw(st.integers(1, 4)) if batching else 1):
        rows = (draw(st.integers(1, 3)),) if batching else ()
        inputs = []
        for spec, size in zip(specs, sizes, strict=True):
            count = element_count((*rows, *size))
            if spec.datatype == "BYTES":
                data = pack_bytes(draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count)))
            else:
                data = draw(
                    st.binary(min_size=count * ITEM_SIZE[spec.datatype], max_size=count * ITEM_SIZE[spec.datatype])
                )
            inputs.append(Tensor(spec.name, spec.datatype, (*rows, *size), data))
        requests.append(InferRequest(str(number), "m", "1", tuple(draw(st.permutations(inputs)))))
    return config, requests


@given(batches())
def test_what_is_stacked_and_cut_again_is_what_was_given(drawn: tuple[ModelConfig, list[InferRequest]]) -> None:
    config, requests = drawn
    signature = Signature(config)
    expected = [{t.name: (t.datatype, t.shape, bytes(t.data)) for t in request.inputs} for request in requests]
    shapes = [signature.check_request(request) for request in requests]
    assert len({shape.shape_class for shape in shapes}) == 1
    requests = [signature.in_order(request, shape) for request, shape in zip(requests, shapes, strict=True)]
    shares = Assembly(config).cut(requests, Assembly(config).stack(requests).inputs)
    assert [{t.name: (t.datatype, t.shape, bytes(t.data)) for t in share} for share in shares] == expected
