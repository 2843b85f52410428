"""The example inputs that a traced TorchScript module keeps (`traced_inputs.pkl`): datatypes and shapes. Pure.

The pickle is never loaded: its opcodes are read, and of all that they would call only the description of a tensor is understood.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from typing import Any, Final

MAX_PICKLE: Final = 1024 * 1024
"""Bytes; the tensors' data is not in it."""
_DATATYPES: Final = {
    "ByteStorage": "UINT8", "CharStorage": "INT8", "ShortStorage": "INT16", "IntStorage": "INT32", "LongStorage": "INT64",
    "HalfStorage": "FP16", "FloatStorage": "FP32", "DoubleStorage": "FP64", "BoolStorage": "BOOL", "BFloat16Storage": "BF16",
}  # fmt: skip
_TENSOR: Final = "torch._utils _rebuild_tensor_v2"
_TYPED: Final = "torch.jit._pickle restore_type_tag"
_INTEGERS: Final = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "LONG4"})


@dataclasses.dataclass(frozen=True, slots=True)
class ExampleTensor:
    """The datatype and the whole shape of an example input."""

    datatype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Global:
    name: str


class _Unknown:
    """A value that is not understood."""


_MARK: Final = object()


def example_inputs(pickle: bytes) -> tuple[ExampleTensor, ...] | None:
    """The tensors that forward was traced with, in order; None if they are not all tensors, or the pickle is of another form."""
    try:
        value = _Machine().run(pickle[:MAX_PICKLE])
        examples = value["forward"]
        return tuple(examples) if all(isinstance(each, ExampleTensor) for each in examples) else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, UnicodeDecodeError):
        return None


class _Machine:
    """A stack machine for the opcodes that describe tensors in lists, tuples and dicts; it calls nothing."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        """The value that the pickle describes.

        Raises:
            ValueError, IndexError, KeyError, TypeError: it has other opcodes, or is damaged.
        """
        for opcode, argument, _ in pickletools.genops(io.BytesIO(pickle)):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("no STOP")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _INTEGERS or name == "BINUNICODE":
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("NONE", "NEWFALSE", "NEWTRUE"):
            stack.append({"NONE": None, "NEWFALSE": False, "NEWTRUE": True}[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name != "PROTO":
            self._container(name)

    def _container(self, name: str) -> None:
        stack = self._stack
        if name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"):
            stack.append({"EMPTY_LIST": [], "EMPTY_DICT": {}, "EMPTY_TUPLE": ()}[name])
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "APPENDS":
            items = self._marked()
            stack[-1].extend(items)
        elif name == "SETITEMS":
            items = self._marked()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "BINPERSID":  # the storage of a tensor: ("storage", type, key, place, elements)
            stack.append(stack.pop()[1])
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_called(function, arguments))
        else:
            raise ValueError(name)

    def _marked(self) -> list[Any]:
        place = max(index for index, value in enumerate(self._stack) if value is _MARK)
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items


def _called(function: Any, arguments: Any) -> Any:
    """What is known of a call's result."""
    name = function.name if isinstance(function, _Global) else ""
    if name == _TYPED:
        return arguments[0]
    if name == _TENSOR:
        storage, _, shape = arguments[:3]
        return ExampleTensor(_DATATYPES[storage.name.rpartition(" ")[2]], tuple(int(size) for size in shape))
    return _Unknown()
