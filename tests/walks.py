"""Which BYTES tensors one thread looks at element by element."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType

from protocol.tensors import bytes_elements, check_bytes, element_count, pack_bytes

_WALKS = {check_bytes.__code__: "tensor", bytes_elements.__code__: "tensor", pack_bytes.__code__: "elements"}


@contextlib.contextmanager
def walks() -> Iterator[list[int]]:
    """The numbers of elements that this thread looks at meanwhile, one per tensor."""
    seen: list[int] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        name = _WALKS.get(frame.f_code)
        if event == "call" and name is not None:
            value = frame.f_locals[name]
            seen.append(len(value) if name == "elements" else element_count(value.shape))

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)
