import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.local.process import LocalServer, free_port
from protocol.errors import Unavailable

ROOT = Path(__file__).parents[2]

PARENT = """
import sys
from pathlib import Path
from infra.local.redis import RedisServer

server = RedisServer(Path(sys.argv[1])).start()
print(server.pid, flush=True)
sys.stdin.read()
"""


class Script(LocalServer):
    """A shell script in place of a server: it 'answers' once it has written a file."""

    name = "Script"
    address = "nowhere"

    def __init__(self, data: Path, script: str) -> None:
        super().__init__(data)
        self.script = script

    def command(self) -> list[str]:
        return ["/bin/sh", "-c", self.script]

    def answers(self) -> bool:
        return (self.data / "ready").exists()


@pytest.mark.servers
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path, ended_by: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(ended_by)

        gone, _ = psutil.wait_procs([server], timeout=10)

    assert gone == [server]


def test_a_child_that_ends_before_it_answers_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"(?s)ended with status 3; last lines of .*out of cheese"):
        Script(tmp_path, "echo out of cheese; exit 3").start()


def test_a_child_that_never_answers_is_ended_and_said_so(tmp_path: Path) -> None:
    server = Script(tmp_path, "echo starting; exec sleep 60")
    server.ready_timeout = 0.1

    with pytest.raises(Unavailable, match=r"(?s)did not answer within 0 s; .*starting"):
        server.start()

    assert not server.running


def test_a_child_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    server = Script(tmp_path, "trap '' TERM; touch ready; while :; do sleep 0.05; done").start()
    child = psutil.Process(server.pid)

    server.stop(timeout=0.2)

    assert not child.is_running()


def test_stopping_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    server = Script(tmp_path, "touch ready; exec sleep 60").start()

    server.kill()
    server.kill()
    server.stop()

    assert not server.running


def test_the_log_is_shown_without_stack_frames(tmp_path: Path) -> None:
    server = Script(tmp_path, "printf 'cause\\n\\tat a.b.C(C.java:1)\\n'; touch ready; exec sleep 60")
    with server:
        assert server.log_tail() == "cause"


def test_a_free_port_is_below_the_ephemeral_ones() -> None:
    assert 20_000 <= free_port() < 32_000


def test_a_free_port_is_not_given_twice() -> None:
    ports = [free_port() for _ in range(1_000)]

    assert len(set(ports)) == len(ports)
