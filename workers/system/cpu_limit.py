"""How many CPU cores a container's limit leaves, from Linux's control groups (v1 and v2). Pure: reading is an argument.

The process's own group and every group above it may have a limit; the strictest counts. A container usually sees its own group as
the root of the mount; sometimes it sees the host's whole path, while only the end of that path is mounted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Final

Read = Callable[[str], str | None]
"""The text of a file; None where it cannot be read."""

CGROUPS: Final = "/proc/self/cgroup"
MOUNTS: Final = "/proc/self/mountinfo"


@dataclasses.dataclass(frozen=True, slots=True)
class _Mount:
    """A mount of control groups with CPU limits; `root` is the group at `point`."""

    root: PurePosixPath
    point: PurePosixPath
    unified: bool


def usable_cores(cores: int, limit: float | None) -> int:
    """Cores to share out: threads beyond the limit would only be throttled.

    Args:
        cores: that the process may run on.
        limit: see `cpu_quota`.
    """
    return cores if limit is None else max(1, min(cores, math.floor(limit + 1e-6)))


def cpu_quota(read: Read) -> float | None:
    """CPU seconds per second that the process's group and those above it may use; None for no limit."""
    groups = _groups(read(CGROUPS) or "")
    limits = [
        limit
        for mount in _mounts(read(MOUNTS) or "")
        if (group := groups.get(mount.unified)) is not None
        for folder in _folders(mount, group)
        if (limit := (_unified if mount.unified else _first_version)(folder, read)) is not None
    ]
    return min(limits, default=None)


def _groups(text: str) -> dict[bool, PurePosixPath]:
    """The process's group by whether the hierarchy is the unified one (v2)."""
    found = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and ((number, controllers) == ("0", "") or "cpu" in controllers.split(",")):
            found[controllers == ""] = PurePosixPath(path)
    return found


def _mounts(text: str) -> Iterator[_Mount]:
    """See proc(5): fields, optional fields, a dash, the type, the source and its options."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        unified = kind[0] == "cgroup2"
        if unified or (kind[0] == "cgroup" and "cpu" in kind[2].split(",")):
            yield _Mount(PurePosixPath(_plain(fields[3])), PurePosixPath(_plain(fields[4])), unified)


def _plain(text: str) -> str:
    """Undo the octal escapes of blanks and backslashes."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _folders(mount: _Mount, group: PurePosixPath) -> Iterator[PurePosixPath]:
    """The folders of the group and of those above it, as far as they are mounted."""
    below = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
    if ".." in below.parts:  # a group outside this namespace
        below = PurePosixPath()
    folder = mount.point / below
    while True:
        yield folder
        if folder == mount.point:
            return
        folder = folder.parent


def _unified(folder: PurePosixPath, read: Read) -> float | None:
    """`cpu.max`: microseconds, or "max", in a period of microseconds."""
    given = (read(str(folder / "cpu.max")) or "").split()
    return _share(given[0], given[1]) if len(given) == 2 else None


def _first_version(folder: PurePosixPath, read: Read) -> float | None:
    """`cpu.cfs_quota_us`, -1 for no limit, in a period of `cpu.cfs_period_us`."""
    return _share(read(str(folder / "cpu.cfs_quota_us")) or "", read(str(folder / "cpu.cfs_period_us")) or "")


def _share(used: str, period: str) -> float | None:
    try:
        share = int(used) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None
