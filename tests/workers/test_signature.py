import dataclasses

import pytest

from protocol.errors import InvalidArgument
from protocol.messages import InferRequest
from protocol.model_config import ModelConfig
from protocol.model_config.parts import TensorSpec
from protocol.request_check import fits
from protocol.tensors import Tensor
from workers.repository.signature import MAX_REMEMBERED, Signature

CONFIG = ModelConfig(
    name="m",
    backend="identity",
    max_batch_size=8,
    inputs=(
        TensorSpec("A", "FP32", (4,)),
        TensorSpec("B", "INT64", (-1,)),
        TensorSpec("C", "BYTES", (1,), optional=True),
    ),
    outputs=(TensorSpec("Y", "FP32", (4,)), TensorSpec("Z", "INT64", (-1,))),
)


def tensor(name: str, datatype: str, *shape: int) -> Tensor:
    return Tensor(name, datatype, shape, b"")


def request(*inputs: Tensor, outputs: tuple[str, ...] = ()) -> InferRequest:
    return InferRequest("id", "m", "1", inputs, outputs)


A = tensor("A", "FP32", 2, 4)
B = tensor("B", "INT64", 2, 7)


def test_rows_and_shape_class() -> None:
    assert Signature(CONFIG).check_request(request(A, B)) == (2, "4,7,-", None)
    assert Signature(CONFIG).check_request(request(A, B, tensor("C", "BYTES", 2, 1)))[:2] == (2, "4,7,1")


def test_inputs_are_put_into_the_configurations_order() -> None:
    signature = Signature(CONFIG)
    for _ in range(2):  # judged, then remembered
        given = request(B, A, outputs=("Z",))
        assert signature.in_order(given, signature.check_request(given)).inputs == (A, B)
        assert given.inputs == (B, A), "a message that was published is not changed"


def test_same_sizes_with_other_rows_share_a_class() -> None:
    signature = Signature(CONFIG)
    one = signature.check_request(request(tensor("A", "FP32", 1, 4), tensor("B", "INT64", 1, 7)))
    two = signature.check_request(request(A, B))
    assert one.shape_class == two.shape_class
    assert (one.rows, two.rows) == (1, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            request(A),
            r"expected number of inputs between 2 and 3 but got 1 inputs for model 'm'.*missing required input\(s\) \['B'\]",
        ),
        (request(), "expected number of inputs between 2 and 3 but got 0"),
        (
            request(A, B, tensor("D", "FP32", 2, 1)),
            "unexpected inference input 'D' for model 'm'; allowed inputs are: A, B, C",
        ),
        (request(A, B, A), "input 'A' already exists in request"),
        (request(tensor("A", "FP64", 2, 4), B), "input 'A' data-type is 'FP64', but model 'm' expects 'FP32'"),
        (request(tensor("A", "FP32", 2, 5), B), r"unexpected shape for input 'A'.*Expected \[-1,4\], got \[2,5\]"),
        (
            request(tensor("A", "FP32", 4), tensor("B", "INT64", 4, 7)),
            "Setting a non-zero max_batch_size in the model config requires",
        ),
        (request(tensor("A", "FP32", 1, 4), B), "input 'B' batch size does not match other inputs"),
        (request(tensor("A", "FP32", 9, 4), tensor("B", "INT64", 9, 7)), "batch-size must be <= 8 for 'm'"),
        (request(tensor("A", "FP32", 0, 4), tensor("B", "INT64", 0, 7)), "batch-size must be >= 1 for 'm'"),
        (request(A, B, outputs=("X",)), "unexpected inference output 'X' for model 'm'; allowed outputs are: Y, Z"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: InferRequest, message: str) -> None:
    signature = Signature(CONFIG)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=message):
            signature.check_request(given)


def test_an_output_asked_for_twice_is_answered_once() -> None:
    given = request(A, B, outputs=("Z", "Y", "Z"))
    signature = Signature(CONFIG)

    assert signature.in_order(given, signature.check_request(given)).outputs == ("Z", "Y")
    assert given.outputs == ("Z", "Y", "Z"), "a message that was published is not changed"


def test_no_inputs_are_a_request_where_all_are_optional() -> None:
    config = ModelConfig(name="p", inputs=(TensorSpec("A", "FP32", (4,), optional=True),))

    assert Signature(config).check_request(request()) == (1, "-", None)


def test_a_model_without_batch_dimension_has_one_row() -> None:
    plain = ModelConfig(name="p", inputs=(TensorSpec("A", "FP32", (4, 2)),), outputs=(TensorSpec("Y", "FP32", (1,)),))
    assert Signature(plain).check_request(request(tensor("A", "FP32", 4, 2))) == (1, "4x2", None)
    with pytest.raises(InvalidArgument, match="unexpected shape"):
        Signature(plain).check_request(request(tensor("A", "FP32", 1, 4, 2)))


def test_memory_is_bounded_whatever_sizes_come() -> None:
    signature = Signature(CONFIG)
    for size in range(MAX_REMEMBERED * 2 + 10):
        shape = signature.check_request(request(A, tensor("B", "INT64", 2, size)))
        assert shape.shape_class == f"4,{size},-"
    assert len(signature._remembered) <= MAX_REMEMBERED


def test_minus_one_is_any_size() -> None:
    assert fits((3, 0, 5), (3, -1, -1))
    assert not fits((3,), (3, -1))
    assert not fits((2, 1), (3, -1))


@pytest.mark.parametrize("rows", [0, 8])
def test_a_scalar_comes_as_one_element_or_where_nothing_batches_as_a_scalar(rows: int) -> None:
    spec = TensorSpec("S", "INT64", (1,), reshape=())
    signature = Signature(dataclasses.replace(CONFIG, max_batch_size=rows, inputs=(spec,)))
    batch = (2,) if rows else ()

    assert signature.check_request(request(tensor("S", "INT64", *batch, 1))).rows == (2 if rows else 1)
    for shape in [(*batch, 2), (*batch, 1, 1), batch if rows else (0,)]:
        with pytest.raises(InvalidArgument, match="unexpected shape for input 'S'"):
            signature.check_request(request(tensor("S", "INT64", *shape)))
    if not rows:
        assert signature.check_request(request(tensor("S", "INT64"))).rows == 1


def test_an_input_of_one_element_that_is_no_scalar_has_a_dimension() -> None:
    config = dataclasses.replace(CONFIG, max_batch_size=0, inputs=(TensorSpec("S", "INT64", (1,)),))

    with pytest.raises(InvalidArgument, match=r"Expected \[1\], got \[\]"):
        Signature(config).check_request(request(tensor("S", "INT64")))
