"""Anonymous shared memory: tensors lie in it side by side, and it is freed with the last process that holds it.

Invariants: a segment never changes its size; one that is too small is replaced. Every tensor begins at a multiple of `ALIGNMENT`.
The worker writes to a slot until its batch runs; then the child reads it; then it is free again.
"""

from __future__ import annotations

import collections
import fcntl
import itertools
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from protocol.tensors import ITEM_SIZE, Array, Buffer, Tensor, element_count

ALIGNMENT: Final = 64
SMALLEST: Final = 256 * 1024
"""Bytes of a first segment; pages that are never written cost nothing."""

Described = list[Any]
"""A tensor as a message describes it: name, datatype, shape, offset, size."""


class Segment:
    """Memory that two processes share.

    Attributes:
        descriptor: the other process maps it; -1 once it is closed.
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = _anonymous(size)
        self._map = mmap.mmap(self.descriptor, size)

    def write(self, parts: Iterable[tuple[int, Buffer]]) -> None:
        """Copy in each part at its offset."""
        memory = self._map
        for offset, data in parts:
            memory[offset : offset + len(data)] = data

    def close(self) -> None:
        """Close the descriptor; the memory lives as long as views of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


class SegmentView:
    """The other process's segment, read-only. Closes the descriptor at once; the mapping lives as long as its tensors."""

    def __init__(self, descriptor: int) -> None:
        try:
            self._bytes: Array = np.frombuffer(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ), np.uint8)
        finally:
            os.close(descriptor)
        self._lent: weakref.ref[Array] | None = None

    def view_tensors(self, described: Sequence[Described]) -> list[Tensor]:
        """Tensors whose data are read-only views.

        Raises:
            ValueError: one does not lie in the segment, or its bytes do not fit its shape.
        """
        lent = self._bytes.view()
        self._lent = weakref.ref(lent)
        whole = memoryview(lent)  # type: ignore[arg-type]  # ndarray is a buffer
        return [_cut(whole, each) for each in described]

    @property
    def in_use(self) -> bool:
        """Whether a tensor of the last `view_tensors` is still referenced."""
        return self._lent is not None and self._lent() is not None

    def copy_tensors(self, described: Sequence[Described]) -> list[Tensor]:
        """Tensors with data of their own: one copy for all of them.

        Raises:
            ValueError: see `view_tensors`.
        """
        end = max([each[3] + each[4] for each in described], default=0)
        whole = memoryview(self._bytes[:end].tobytes())
        return [_cut(whole, each) for each in described]


def _cut(whole: memoryview, described: Described) -> Tensor:
    name, datatype, shape, offset, size = described
    if not (offset >= 0 and size >= 0 and offset + size <= len(whole)):
        raise ValueError(f"tensor '{name}' lies outside the shared memory")
    item = ITEM_SIZE[datatype]
    if item and element_count(shape) * item != size:
        raise ValueError(f"tensor '{name}' has {size} bytes, which is not {datatype}{shape}")
    return Tensor(name, datatype, tuple(shape), whole[offset : offset + size])


class SegmentSlot:
    """A numbered place for one batch's tensors, with a segment that grows by being replaced."""

    __slots__ = ("number", "segment")

    def __init__(self, number: int) -> None:
        self.number = number
        self.segment: Segment | None = None

    def write_tensors(self, tensors: Sequence[Tensor]) -> list[Described]:
        """Copy the tensors into the segment, or into a new one that is large enough."""
        described, parts, end = [], [], 0
        for tensor in tensors:
            size = len(tensor.data)
            described.append([tensor.name, tensor.datatype, list(map(int, tensor.shape)), end, size])
            if size:
                parts.append((end, tensor.data))
            end += (size + ALIGNMENT - 1) & -ALIGNMENT
        if self.segment is None or self.segment.size < end:
            self.segment = Segment(capacity(end))
        self.segment.write(parts)
        return described


class SegmentSlots:
    """The slots of one instance. `take` and `give_back` from any thread."""

    def __init__(self) -> None:
        self._free: collections.deque[SegmentSlot] = collections.deque()
        self._numbers = itertools.count()
        self._closed = False

    def take(self) -> SegmentSlot:
        """A free slot, or a new one."""
        try:
            return self._free.pop()
        except IndexError:
            return SegmentSlot(next(self._numbers))

    def give_back(self, slot: SegmentSlot) -> None:
        """Free the slot for another batch."""
        if not self._closed:
            self._free.append(slot)

    def close(self) -> None:
        """Free the memory of all slots, now or when they are given back."""
        self._closed = True
        self._free.clear()


def capacity(size: int) -> int:
    """Size of a segment for this many bytes: a power of two, so that slowly growing batches replace it rarely."""
    return max(SMALLEST, 1 << (size - 1).bit_length() if size else 0)


def _anonymous(size: int) -> int:
    """A descriptor of memory that no path leads to."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:  # it is unlinked, or never had a name
            file.truncate(size)
            return os.dup(file.fileno())
    descriptor = os.memfd_create("penstock", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    # If the other process could shrink it, reading here would be a SIGBUS.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor
