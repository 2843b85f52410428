"""What an AOTInductor package states about its inputs and outputs, in the C++ source that it carries beside the library. Pure.

The package's own metadata name the device only. The source, which torch generates, has the tree of inputs and outputs, and a
function `check_input_n` for each input with its datatype and sizes. Outputs have no such check: running it tells.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from protocol.errors import ConfigError
from workers.repository.torch_files.pytrees import names_of, spec_paths
from workers.repository.torch_files.signature import ProgramTensor, Size

_ATEN: Final = {
    "Byte": "UINT8", "Char": "INT8", "Short": "INT16", "Int": "INT32", "Long": "INT64", "Half": "FP16", "Float": "FP32",
    "Double": "FP64", "Bool": "BOOL", "BFloat16": "BF16", "UInt16": "UINT16", "UInt32": "UINT32", "UInt64": "UINT64",
}  # fmt: skip
_COUNTS: Final = re.compile(r"AOTInductorModelBase\(\s*(\d{1,4}),\s*(\d{1,4}),")
_CHECK: Final = re.compile(r"static void check_input_(\d{1,4})\(")
_CHECK_END: Final = "\n}"
_DTYPE: Final = re.compile(r"\(at::k(\w+)\)")
_FIXED: Final = re.compile(r"if \((\d{1,19}) != \w+_size\[(\d{1,2})\]\)")
_BOUND: Final = re.compile(r"if \(\w+_size\[(\d{1,2})\] ([<>]) (\d{1,19})\)")
_STRIDE: Final = re.compile(r"_stride\[(\d{1,2})\]\)")
_UNBOUNDED: Final = 2**62


@dataclasses.dataclass(frozen=True, slots=True)
class PackageSignature:
    """What the source states.

    Attributes:
        inputs: with their whole shapes; None if it does not state their datatypes and sizes.
        input_count: how many tensors a run takes.
        output_names: one for each tensor that a run gives.
    """

    inputs: tuple[ProgramTensor, ...] | None
    input_count: int
    output_names: tuple[str, ...]


def signature(source: str) -> PackageSignature:
    """Read a package's generated source.

    Raises:
        ConfigError: it is not such a source.
    """
    counts = _COUNTS.search(source)
    if counts is None:
        raise ConfigError("its generated source does not say how many inputs and outputs the model has")
    input_count, output_count = int(counts[1]), int(counts[2])
    checks = _checks(source)
    names = _names(source, "in_spec_", input_count, "INPUT__")
    inputs = None
    if all(index in checks for index in range(input_count)):
        inputs = tuple([_tensor(name, checks[index]) for index, name in enumerate(names)])
    return PackageSignature(inputs, input_count, _names(source, "out_spec_", output_count, "OUTPUT__"))


def _checks(source: str) -> dict[int, str]:
    """The bodies of the checks, by input; one that is cut off is none."""
    _, *parts = _CHECK.split(source)
    bodies = [part.partition(_CHECK_END) for part in parts[1::2]]
    return {int(index): body for index, (body, end, _) in zip(parts[::2], bodies, strict=True) if end}


def _names(source: str, variable: str, count: int, prefix: str) -> tuple[str, ...]:
    _, _, rest = source.partition(f'{variable} = R"(')
    spec, end, _ = rest.partition(')";')
    paths = spec_paths(spec) if end else ()
    return names_of(paths if len(paths) == count else [(index,) for index in range(count)], prefix)


def _tensor(name: str, check: str) -> ProgramTensor:
    """An input from its check. A dimension without one, or with bounds, has any size; the last has a checked stride."""
    datatype = _DTYPE.search(check)
    if datatype is None or datatype[1] not in _ATEN:
        raise ConfigError(
            f"input '{name}' has the datatype {datatype[1] if datatype else 'unknown'}, which the V2 protocol does not have"
        )
    sizes: dict[int, Size] = {}
    for value, index in _FIXED.findall(check):
        sizes[int(index)] = Size(int(value))
    for index, side, value in _BOUND.findall(check):
        former, bound = sizes.get(int(index), Size()), int(value)
        if side == "<":
            sizes[int(index)] = dataclasses.replace(former, least=bound)
        elif bound < _UNBOUNDED:
            sizes[int(index)] = dataclasses.replace(former, most=bound)
    rank = 1 + max([*sizes, *[int(index) for index in _STRIDE.findall(check)]], default=-1)
    return ProgramTensor(name, _ATEN[datatype[1]], tuple([sizes.get(index, Size()) for index in range(rank)]))
