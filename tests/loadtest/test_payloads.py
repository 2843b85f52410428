from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import payloads
from loadtest.payloads import InputSpec, Pool
from protocol import v2
from protocol.errors import InvalidArgument


def answer(outputs: dict[str, list[float]]) -> bytes:
    return orjson.dumps({"outputs": [{"name": name, "data": data} for name, data in outputs.items()]})


def test_bodies_differ_and_their_answers_are_exact(pool: Pool) -> None:
    assert len(set(pool.bodies)) == len(pool) == 64
    for arrays, expected in zip(pool.inputs, pool.expected, strict=True):
        a, b = (arrays[name].astype(np.float64).ravel() for name in ("INPUT0", "INPUT1"))
        assert expected["OUTPUT0"] == (a + b).tolist()
        assert expected["OUTPUT1"] == (a - b).tolist()


def test_only_its_own_answer_is_right(pool: Pool) -> None:
    mine = {name: list(values) for name, values in pool.expected[0].items()}
    assert pool.is_right(0, answer(mine))
    assert not pool.is_right(1, answer(mine))
    off = {**mine, "OUTPUT1": [*mine["OUTPUT1"][:-1], mine["OUTPUT1"][-1] + 0.1]}
    assert not pool.is_right(0, answer(off))
    assert not pool.is_right(0, answer({"OUTPUT0": mine["OUTPUT0"]}))
    assert not pool.is_right(0, answer({**mine, "OUTPUT1": mine["OUTPUT1"][:-1]}))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b'{"outputs": 3}', b'{"outputs": [{}]}', b"\xff"])
def test_no_answer_is_not_right(pool: Pool, body: bytes) -> None:
    assert not pool.is_right(0, body)


def test_rounding_is_not_wrong_but_nan_is() -> None:
    expected = {"y": [1.0, 1000.0]}
    assert payloads.is_close({"y": [1.001, 1001.0]}, expected)
    assert not payloads.is_close({"y": [1.0, float("nan")]}, expected)


@given(
    st.sampled_from(["FP32", "FP64", "INT8", "UINT8", "INT64", "BOOL", "BYTES"]), st.integers(1, 5), st.integers(0, 99)
)
def test_every_datatype_makes_a_body_that_the_gateway_parses(datatype: str, size: int, seed: int) -> None:
    spec = InputSpec("x", datatype, (1, size))
    pool = payloads.build([spec], 1, seed)
    tensor = v2.parse_json_body(pool.bodies[0]).inputs[0]
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, (1, size))
    got = tensor.array().ravel().tolist()
    sent = pool.inputs[0]["x"].ravel().tolist()
    assert [value.decode() if isinstance(value, bytes) else value for value in got] == sent


def test_a_datatype_without_a_json_form_is_named() -> None:
    with pytest.raises(InvalidArgument, match="FP16"):
        payloads.build([InputSpec("x", "FP16", (1,))], 1)


def test_inputs_are_read_from_metadata_and_from_a_configuration() -> None:
    metadata = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [-1, 32]}]}
    config = {"max_batch_size": 8, "input": [{"name": "x", "data_type": "TYPE_INT64", "dims": ["32"]}]}
    assert payloads.specs_of(metadata) == payloads.specs_of_config(config) == (InputSpec("x", "INT64", (1, 32)),)
    unbatched = {"input": [{"name": "t", "data_type": "TYPE_STRING", "dims": [-1, 2]}]}
    assert payloads.specs_of_config(unbatched) == (InputSpec("t", "BYTES", (1, 2)),)


def test_binary_bodies_are_v2_requests_and_know_their_answers() -> None:
    spec = InputSpec("image", "FP32", (1, 2, 3))
    pool = payloads.build_binary([spec], ["negative"], lambda inputs: {"negative": -inputs["image"]}, count=3)
    assert len(set(pool.bodies)) == len(pool) == 3
    length = int(pool.headers["Inference-Header-Content-Length"])
    for index, body in enumerate(pool.bodies):
        head, tensor = orjson.loads(body[:length]), body[length:]
        assert head["inputs"][0]["parameters"] == {"binary_data_size": 24}
        assert head["outputs"] == [{"name": "negative", "parameters": {"binary_data": True}}]
        image = np.frombuffer(tensor, np.float32)
        assert pool.is_right(index, b'{"outputs":[]}' + (-image).tobytes())
        assert not pool.is_right(index, b'{"outputs":[]}' + image.tobytes())
        assert not pool.is_right((index + 1) % 3, (-image).tobytes())
