"""The regions that clients have registered: by name, with their bounds. Implements `protocol.v2.SharedMemory`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from gateway.shared_memory.segment import FOLDER, Segment, check_key
from protocol.errors import FleetError, InvalidArgument, NotFound, Unsupported, quoted
from protocol.tensors import Buffer

MAX_REGIONS: Final = 256
MAX_NAME: Final = 256
MAX_SIZE: Final = 2**63 - 1
"""Largest offset and size, in bytes: what the system's files can have."""


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """A registered part of a shared memory object.

    Attributes:
        name: what requests call it.
        key: of the object, as `shm_open` takes it.
        offset, byte_size: the part of the object.
    """

    name: str
    key: str
    offset: int
    byte_size: int


class Regions:
    """Registers, reads and writes regions. Every method may be called on any thread; changes come from one.

    Args:
        allowed: whether clients may use shared memory at all.

    Attributes:
        on_change: called with all regions after each change that a client made; for other processes of this gateway.
    """

    def __init__(self, allowed: bool, folder: Path = FOLDER) -> None:
        self.allowed = allowed
        self.on_change: Callable[[list[Region]], None] | None = None
        self._folder = folder
        self._open: dict[str, tuple[Region, Segment]] = {}

    def check_allowed(self) -> None:
        """Refuse unless shared memory is allowed.

        Raises:
            Unsupported: it is not.
        """
        if not self.allowed:
            raise Unsupported(
                "Client shared memory is disabled. A client on the gateway's machine may use it if the gateway is started with "
                "--allow-shared-memory"
            )

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Register a part of a shared memory object.

        Raises:
            Unsupported: shared memory is not allowed.
            NotFound: there is no such object.
            InvalidArgument: the name is taken, the part is not within the object, or there are too many regions.
        """
        self.check_allowed()
        if name in self._open:
            raise InvalidArgument(f"shared memory region {quoted(name)} already in manager")
        self._add(Region(name, key, offset, byte_size))
        self._changed()

    def _add(self, region: Region) -> None:
        name, offset, byte_size = region.name, region.offset, region.byte_size
        check_key(region.key)
        if not 0 < len(name) <= MAX_NAME:
            raise InvalidArgument(f"a shared memory region's name has 1 to {MAX_NAME} characters, not {len(name)}")
        if len(self._open) >= MAX_REGIONS:
            raise InvalidArgument(f"{MAX_REGIONS} shared memory regions are registered, the limit; unregister some")
        if not (0 <= offset <= MAX_SIZE and 0 < byte_size <= MAX_SIZE):
            raise InvalidArgument(
                f"failed to register shared memory region {quoted(name)}: the offset must be at least 0 and the size more than 0"
            )
        segment = Segment(region.key, self._folder)
        if offset + byte_size > segment.size:
            size = segment.size
            segment.close()
            raise InvalidArgument(
                f"failed to register shared memory region {quoted(name)}: invalid args: {byte_size} bytes from {offset} on are "
                f"not within the {size} bytes of {quoted(region.key)}"
            )
        self._open[name] = (region, segment)

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all of them; an unknown one is no error, as in Triton.

        Raises:
            Unsupported: shared memory is not allowed.
        """
        self.check_allowed()
        for gone in [name] if name else list(self._open):
            self._drop(gone)
        self._changed()

    def _drop(self, name: str) -> None:
        held = self._open.pop(name, None)
        if held is not None:
            held[1].close()

    def status(self, name: str = "") -> list[Region]:
        """One region, or all of them by name.

        Raises:
            Unsupported: shared memory is not allowed.
            NotFound: there is no region of this name.
        """
        self.check_allowed()
        if not name:
            return [self._open[each][0] for each in sorted(self._open)]
        if name not in self._open:
            raise NotFound(f"Unable to find system shared memory region: {quoted(name)}")
        return [self._open[name][0]]

    def replace(self, regions: Iterable[Region]) -> None:
        """Take over the regions of another process of this gateway; one that cannot be opened any more is left out."""
        wanted = {region.name: region for region in regions}
        for name in [name for name, (region, _) in self._open.items() if wanted.get(name) != region]:
            self._drop(name)
        for region in wanted.values():
            if region.name not in self._open:
                try:
                    self._add(region)
                except FleetError:
                    continue

    def check(self, region: str, offset: int, byte_size: int) -> None:
        """Check that a part lies within a region, before a request is queued.

        Raises:
            Unsupported: shared memory is not allowed.
            NotFound: there is no such region.
            InvalidArgument: the part is not within it.
        """
        self._find(region, offset, byte_size)

    def read(self, region: str, offset: int, byte_size: int) -> bytes:
        """A copy of a part of a region.

        Raises:
            Unsupported, NotFound, InvalidArgument: as `check`; also if the object has become shorter.
        """
        known, segment = self._find(region, offset, byte_size)
        data = segment.read(known.offset + offset, byte_size)
        if len(data) != byte_size:
            raise InvalidArgument(_shorter(region))
        return data

    def write(self, region: str, offset: int, byte_size: int, data: Sequence[Buffer]) -> None:
        """Write pieces, one after the other, to a part of a region.

        Raises:
            Unsupported, NotFound, InvalidArgument: as `check`; also if the pieces have more bytes than the part, the object has
                become shorter, or it may only be read.
        """
        known, segment = self._find(region, offset, byte_size)
        size = sum([len(piece) for piece in data])
        at = known.offset + offset
        if size > byte_size:
            raise InvalidArgument(
                f"{size} bytes do not fit into {byte_size} bytes of shared memory region {quoted(region)}"
            )
        if not segment.writable:
            raise InvalidArgument(f"this gateway may only read shared memory region {quoted(region)}")
        if at + size > segment.size or not segment.write(at, data):
            raise InvalidArgument(_shorter(region))

    def _find(self, region: str, offset: int, byte_size: int) -> tuple[Region, Segment]:
        self.check_allowed()
        held = self._open.get(region)
        if held is None:
            raise NotFound(f"Unable to find shared memory region: {quoted(region)}")
        size = held[0].byte_size
        if not 0 <= offset < size:
            raise InvalidArgument(f"Invalid offset for shared memory region: {quoted(region)}")
        if byte_size < 0 or offset + byte_size > size:
            raise InvalidArgument(f"Invalid offset + byte size for shared memory region: {quoted(region)}")
        return held

    def cuda_refused(self) -> FleetError:
        """Why CUDA shared memory cannot be used, as an error to raise; INVALID_ARGUMENT, as from a Triton without a GPU."""
        return InvalidArgument(
            "failed to register CUDA shared memory region: GPUs not supported: a gateway has no device, and its workers may be on "
            "other machines; use system shared memory, or send tensors as binary data"
        )

    def close(self) -> None:
        """Close all objects."""
        for name in list(self._open):
            self._drop(name)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change([self._open[name][0] for name in sorted(self._open)])


def _shorter(region: str) -> str:
    return f"the object of shared memory region {quoted(region)} has become shorter than it was registered"
