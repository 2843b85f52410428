"""What Linux gives a process that yields; each case is its own process, because some cannot be undone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.fleet import IDENTITY, write_model
from workers.lifecycle.loader import Loader
from workers.repository.scan import scan_repositories
from workers.repository.version import ModelVersion
from workers.system import cpu_yield

ROOT = Path(__file__).parents[2]
SLICES = sys.platform == "linux" and tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 12)
linux = pytest.mark.skipif(not SLICES, reason="time slices can be chosen since Linux 6.12")
sessions = pytest.mark.skipif(not cpu_yield._AUTOGROUP.exists(), reason="this system has no CPU shares of sessions")
root = pytest.mark.skipif(os.geteuid() != 0, reason="others may change one session in 0.1 s on the whole machine")
TOOLS = """
import ctypes, os, struct, threading
from workers.system import cpu_yield

def slice_of(thread=0):
    given = ctypes.create_string_buffer(48)
    number = {"x86_64": 315, "aarch64": 275}[os.uname().machine]
    assert ctypes.CDLL(None).syscall(number, thread, given, 48, 0) == 0
    return struct.unpack("=IIQiIQQQ", given.raw)[5]

def session():  # None before the first session of a container: it has no share of its own
    words = open("/proc/self/autogroup").read().split()
    return int(words[-1]) if words else None

def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]
"""
LONG = 100_000_000


def said(script: str, *, leads: bool = True) -> list[str]:
    """The output of a process that runs this code with the tools above, with or without its own session."""
    done = subprocess.run(
        [sys.executable, "-c", TOOLS + script],
        check=False,
        cwd=ROOT,
        start_new_session=leads,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@linux
def test_a_process_that_starts_has_long_slices_until_it_takes_part() -> None:
    usual, yields, thread, child, again = said("""
print(slice_of())
cpu_yield.begin()
print(slice_of())
print(in_a_thread(slice_of), flush=True)
if (pid := os.fork()) == 0:
    print(slice_of(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
cpu_yield.end()
print(slice_of())
""")
    assert int(yields) == LONG
    assert usual == child == thread == again != yields


@sessions
def test_a_session_has_a_tenth_of_a_share_until_its_leader_takes_part() -> None:
    assert said("""
print(session())
while session() != 10:  # Linux lets one such change in 0.1 s pass
    cpu_yield.begin()
cpu_yield.begin()
print(session())
while session():
    cpu_yield.end()
print(session())
""") == ["0", "10", "0"]


@sessions
def test_a_session_that_another_process_leads_is_left_alone() -> None:
    before = said("print(session())", leads=False)
    assert said("cpu_yield.begin(); print(session())", leads=False) == before


@sessions
def test_a_session_that_yields_more_already_is_left_alone() -> None:
    assert said("""
while session() != 15:
    cpu_yield._set_session(15)
cpu_yield.begin()
print(session())
cpu_yield.end()
print(session())
""") == ["15", "15"]


@linux
def test_a_policy_that_somebody_chose_is_left_alone() -> None:
    assert said("""
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
before = slice_of()
cpu_yield.begin()
print(os.sched_getscheduler(0) == os.SCHED_BATCH, slice_of() == before)
""") == ["True", "True"]


@linux
def test_a_nice_value_that_somebody_chose_is_kept() -> None:
    assert said("""
os.nice(5)
cpu_yield.begin()
cpu_yield.end()
print(os.getpriority(os.PRIO_PROCESS, 0), in_a_thread(lambda: os.getpriority(os.PRIO_PROCESS, 0)))
""") == ["5", "5"]


def version_that_tells(folder: Path, told: str, isolation: str) -> ModelVersion:
    """A Python model that writes these words, of an f-string with the tools above, to `folder`/found while it is loaded."""
    code = f"""{TOOLS}
from pathlib import Path
class Model:
    def __init__(self):
        Path({str(folder / "found")!r}).write_text(f"{told}")
    def predict(self, X):
        return X
"""
    config = IDENTITY.replace("identity", "python")
    config += f'parameters {{ key: "instance_isolation" value: {{ string_value: "{isolation}" }} }}'
    write_model(folder / "models", "m", config, {"model.py": code})
    ((version,),) = (folder.versions for folder in scan_repositories([folder / "models"]))
    return version


@linux
@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_model_is_loaded_with_long_slices_and_runs_with_the_usual_ones(tmp_path: Path, isolation: str) -> None:
    told = "{slice_of()} {in_a_thread(slice_of)} {threading.get_native_id()}"
    usual = said("print(slice_of())")
    loaded = await Loader((), 2, 32, 1, lambda: 0.0).load(version_that_tells(tmp_path, told, isolation))
    try:
        while_loading, of_its_thread, thread = (tmp_path / "found").read_text().split()
        afterwards = said(f"print(slice_of({thread}))")
    finally:
        await loaded.close()
    assert int(while_loading) == LONG
    assert afterwards == [of_its_thread] == usual


@sessions
@root
async def test_a_child_has_a_tenth_of_a_share_until_its_model_is_loaded(tmp_path: Path) -> None:
    version = version_that_tells(tmp_path, "{os.getpid()} {session()}", "process")
    loaded = await Loader((), 2, 32, 1, lambda: 0.0).load(version)
    try:
        child, while_loading = (tmp_path / "found").read_text().split()
        (afterwards,) = said(f"print(open('/proc/{child}/autogroup').read().split()[-1])")
    finally:
        await loaded.close()
    assert (while_loading, afterwards) == ("10", "0")
