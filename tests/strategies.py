"""Hypothesis strategies for the messages that cross the wire."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from protocol.errors import Code
from protocol.messages import Failure, InferReply, InferRequest, Timing
from protocol.tensors import ITEM_SIZE, Tensor, element_count, pack_bytes

names = st.text(min_size=1, max_size=20)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
seconds = st.integers(0, 2**50).map(lambda micros: micros / 1e6)
parameters = st.dictionaries(
    names.filter(lambda key: not key.startswith("triton_") and key != "binary_data_output"),
    st.one_of(st.text(max_size=10), st.integers(-(2**63), 2**64 - 1), st.booleans(), st.floats(allow_nan=False)),
    max_size=3,
)


@st.composite
def tensors(draw: st.DrawFn, datatypes: tuple[str, ...] = tuple(ITEM_SIZE)) -> Tensor:
    """A tensor with random bits of any datatype; of the sizes that fit its shape."""
    datatype, shape = draw(st.sampled_from(datatypes)), draw(shapes)
    count = element_count(shape)
    if datatype == "BYTES":
        data = pack_bytes(draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count)))
    else:
        size = count * ITEM_SIZE[datatype]
        data = draw(st.binary(min_size=size, max_size=size))
        if datatype == "BOOL":
            data = bytes(byte & 1 for byte in data)
    return Tensor(draw(names), datatype, shape, data)


requests = st.builds(
    InferRequest,
    id=st.text(min_size=1, max_size=30),
    model=names,
    version=st.integers(0, 10**6).map(str),
    inputs=st.lists(tensors(), max_size=3).map(tuple),
    outputs=st.lists(names, max_size=3).map(tuple),
    parameters=parameters,
    label=st.text(max_size=10),
    principal=names,
    reply_to=st.text(max_size=20),
    deadline=st.none() | seconds,
    priority=st.integers(0, 2**32),
    timeout=seconds,
    traceparent=st.text(max_size=55),
    claimed=st.booleans(),
    accepted=seconds,
    published=seconds,
)

timings = st.builds(
    Timing,
    *[seconds] * 8,
    reason=st.sampled_from(["full", "delay", ""]),
    batch_rows=st.integers(0, 1000),
    batch_requests=st.integers(0, 1000),
    attempt=st.integers(1, 9),
    worker=names,
    digest=st.sampled_from(["", "0ab1"]),
    computed=st.just(0.0) | st.floats(1e-5, 100.0),
)

replies = st.builds(
    InferReply,
    model=names,
    version=st.integers(0, 99).map(str),
    label=st.text(max_size=10),
    outputs=st.lists(tensors(), max_size=3).map(tuple),
    parameters=parameters,
    timing=timings,
) | st.builds(
    InferReply,
    model=names,
    version=st.just("1"),
    failure=st.builds(Failure, st.sampled_from(list(Code)), st.text(max_size=30)),
    timing=timings,
)

arrays = st.sampled_from(
    [np.float32, np.float64, np.int8, np.uint16, np.int64, np.uint64, np.bool_, np.float16]
).flatmap(lambda dtype: shapes.map(lambda shape: np.arange(element_count(shape)).reshape(shape).astype(dtype)))
