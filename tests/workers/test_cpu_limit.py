"""CPU limits of containers, from the files of both versions of control groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.system.cpu_limit import CGROUPS, MOUNTS, cpu_quota, usable_cores

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct ro,nosuid shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {root} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
)
TOP = "/sys/fs/cgroup"
CPU = "/sys/fs/cgroup/cpu,cpuacct"


def first_version(folder: str, used: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{used}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


CASES = {
    "v2 in a container": ("0::/\n", V2.format(root="/"), {f"{TOP}/cpu.max": "150000 100000\n"}, 1.5),
    "v2 without a limit": ("0::/\n", V2.format(root="/"), {f"{TOP}/cpu.max": "max 100000\n"}, None),
    "v2 of a service": (
        "0::/system.slice/a.service\n",
        V2.format(root="/"),
        {f"{TOP}/system.slice/a.service/cpu.max": "100000 50000"},
        2.0,
    ),
    "v2, a group above is stricter": (
        "0::/kube/pod/box\n",
        V2.format(root="/"),
        {f"{TOP}/kube/pod/box/cpu.max": "max 100000", f"{TOP}/kube/pod/cpu.max": "300000 100000"},
        3.0,
    ),
    "v2, the host's path in a container": (
        "0::/../other\n",
        V2.format(root="/"),
        {f"{TOP}/cpu.max": "10000 10000"},
        1.0,
    ),
    "v1 in a container": (
        "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n",
        V1.format(root="/docker/1f"),
        first_version(CPU, 250000),
        2.5,
    ),
    "v1 without a limit": ("4:cpu,cpuacct:/\n", V1.format(root="/"), first_version(CPU, -1), None),
    "v1 of a service, and both versions": (
        "4:cpuacct,cpu:/a\n1:name=systemd:/x\n0::/y\n",
        V1.format(root="/") + V2.format(root="/").replace(TOP, f"{TOP}/unified"),
        first_version(f"{CPU}/a", 400000) | first_version(CPU, -1),
        4.0,
    ),
    "a mount with a blank": (
        "0::/\n",
        "30 23 0:26 / /my\\040groups rw - cgroup2 none rw\n",
        {"/my groups/cpu.max": "200000 100000"},
        2.0,
    ),
    "no control groups": ("", "", {}, None),
    "files that make no sense": ("0::/\nx\n::\n", "- - -\n" + V2.format(root="/"), {f"{TOP}/cpu.max": "a b"}, None),
    "a period of nothing": ("0::/\n", V2.format(root="/"), {f"{TOP}/cpu.max": "100 0"}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_limit_of_a_container_is_seen(case: str) -> None:
    groups, mounts, files, limit = CASES[case]
    assert cpu_quota({CGROUPS: groups, MOUNTS: mounts, **files}.get) == limit


@pytest.mark.parametrize(
    ("cores", "limit", "threads"),
    [(64, None, 64), (64, 1.0, 1), (64, 0.25, 1), (64, 2.5, 2), (2, 16.0, 2), (4, 3.9999999, 4)],
)
def test_threads_are_for_whole_cores_within_the_limit(cores: int, limit: float | None, threads: int) -> None:
    assert usable_cores(cores, limit) == threads


@given(texts=st.dictionaries(st.sampled_from([CGROUPS, MOUNTS, f"{TOP}/cpu.max"]), st.text(max_size=200)))
def test_no_text_in_these_files_ends_the_start(texts: dict[str, str]) -> None:
    limit = cpu_quota(texts.get)
    assert limit is None or limit > 0
