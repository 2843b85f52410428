"""Different request bodies with their expected answers.

Invariant: floats drawn here are multiples of 1/8 below 8, so that sums and differences are exact in float32; other models' outputs
are compared with a tolerance, since batches of different sizes round differently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from protocol.errors import InvalidArgument
from protocol.tensors import NUMPY_DTYPE

Array = npt.NDArray[Any]
Answer = Mapping[str, Sequence[float]]

TOLERANCE: Final = 2e-3


@dataclasses.dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of one request.

    Attributes:
        name: as the model calls it.
        datatype: V2's name for it.
        shape: with the batch dimension, if the model has one.
        high: integers are drawn from 0 up to, not including, this.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    high: int = 100


def specs_of(metadata: Mapping[str, Any], high: int = 100) -> tuple[InputSpec, ...]:
    """The inputs that a model's V2 metadata (`GET /v2/models/M`) names; every -1 becomes 1."""
    return tuple(InputSpec(item["name"], item["datatype"], _fixed(item["shape"]), high) for item in metadata["inputs"])


def specs_of_config(config: Mapping[str, Any], high: int = 100) -> tuple[InputSpec, ...]:
    """The same from a configuration in Triton's JSON form; the batch dimension is 1 if the model has one."""
    batch = [1] if int(config.get("max_batch_size", 0)) > 0 else []
    return tuple(
        InputSpec(item["name"], _datatype(item["data_type"]), _fixed([*batch, *item["dims"]]), high)
        for item in config["input"]
    )


def _fixed(shape: Iterable[int | str]) -> tuple[int, ...]:
    return tuple(max(1, int(size)) for size in shape)


def _datatype(config_type: str) -> str:
    return "BYTES" if config_type == "TYPE_STRING" else config_type.removeprefix("TYPE_")


def draw(spec: InputSpec, random: np.random.Generator) -> Array:
    """Random values of the datatype; BYTES elements are short lower-case words.

    Raises:
        InvalidArgument: V2's JSON cannot carry the datatype (FP16, BF16) or it is unknown.
    """
    if spec.datatype == "BYTES":
        words = ["".join(map(chr, random.integers(97, 123, 8))) for _ in range(int(np.prod(spec.shape)))]
        return np.array(words, dtype=object).reshape(spec.shape)
    if spec.datatype == "BOOL":
        return random.integers(0, 2, spec.shape).astype(np.bool_)
    if spec.datatype in ("FP32", "FP64"):
        return (random.integers(-64, 64, spec.shape) / 8).astype(NUMPY_DTYPE[spec.datatype])
    if "INT" in spec.datatype and spec.datatype in NUMPY_DTYPE:
        return random.integers(0, spec.high, spec.shape).astype(NUMPY_DTYPE[spec.datatype])
    raise InvalidArgument(f"input '{spec.name}' has datatype {spec.datatype}, which V2's JSON form cannot carry")


def body_of(inputs: Mapping[str, Array], specs: Iterable[InputSpec]) -> bytes:
    """The V2 JSON request, one line, data flat and row-major."""
    document = [
        {
            "name": spec.name,
            "shape": spec.shape,
            "datatype": spec.datatype,
            "data": array.ravel().tolist() if (array := inputs[spec.name]).dtype == object else array.ravel(),
        }
        for spec in specs
    ]
    return orjson.dumps({"inputs": document}, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """Prepared requests, used in rotation.

    Attributes:
        inputs: the arrays of each request.
        bodies: the V2 bodies, in the same order.
        expected: each request's right answer, flat values by output name; empty when nothing is known about the model.
        tolerance: see `is_close`.
        headers: that every request needs.
        tails: the bytes with which each right answer ends, if its tensors are binary.
    """

    inputs: tuple[Mapping[str, Array], ...]
    bodies: tuple[bytes, ...]
    expected: tuple[Answer, ...]
    tolerance: float = TOLERANCE
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tails: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.bodies)

    def is_right(self, index: int, body: bytes) -> bool:
        """Whether a V2 answer is right for request `index`; without expectations, whether it has outputs."""
        if self.tails:
            return body.endswith(self.tails[index])
        try:
            outputs = {item["name"]: item["data"] for item in orjson.loads(body)["outputs"]}
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return False
        if not self.expected:
            return bool(outputs)
        return is_close(outputs, self.expected[index], self.tolerance)


def is_close(outputs: Answer, expected: Answer, tolerance: float = TOLERANCE) -> bool:
    """Whether every expected output exists with as many values, each within the tolerance (relative above 1)."""
    for name, values in expected.items():
        got = outputs.get(name)
        if got == values:
            continue
        if got is None or len(got) != len(values):
            return False
        if not all(abs(a - b) <= tolerance * max(1.0, abs(b)) for a, b in zip(got, values, strict=True)):
            return False
    return True


def build(
    specs: Sequence[InputSpec],
    count: int = 512,
    seed: int = 0,
    reference: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None,
    tolerance: float = TOLERANCE,
) -> Pool:
    """`count` different requests; with a reference (see `direct.load`), their answers too."""
    random = np.random.default_rng(seed)
    inputs = tuple({spec.name: draw(spec, random) for spec in specs} for _ in range(count))
    bodies = tuple(body_of(arrays, specs) for arrays in inputs)
    if reference is None:
        return Pool(inputs, bodies, ())
    answers = [reference(arrays) for arrays in inputs]
    expected = tuple({name: array.ravel().tolist() for name, array in answer.items()} for answer in answers)
    return Pool(inputs, bodies, expected, tolerance)


def build_binary(
    specs: Sequence[InputSpec],
    outputs: Sequence[str],
    reference: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    count: int = 8,
    seed: int = 0,
) -> Pool:
    """`count` different requests whose tensors travel as bytes, both ways, with their answers; no value is a BYTES element."""
    random = np.random.default_rng(seed)
    inputs = tuple({spec.name: draw(spec, random) for spec in specs} for _ in range(count))
    document = {
        "inputs": [
            {
                "name": spec.name,
                "shape": spec.shape,
                "datatype": spec.datatype,
                "parameters": {"binary_data_size": inputs[0][spec.name].nbytes},
            }
            for spec in specs
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }
    head = orjson.dumps(document)
    bodies = tuple(b"".join([head, *(arrays[spec.name].tobytes() for spec in specs)]) for arrays in inputs)
    answers = [reference(arrays) for arrays in inputs]
    tails = tuple(b"".join(answer[name].tobytes() for name in outputs) for answer in answers)
    return Pool(inputs, bodies, (), headers={"Inference-Header-Content-Length": str(len(head))}, tails=tails)
