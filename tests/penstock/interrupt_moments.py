"""The moments at which `test_interrupt_moments` interrupts: what runs, until when, and with which signals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import socket
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Final

from tests.integration.fleet import wait_for
from tests.penstock.interrupting import Ended, Running

PORTS: Final = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
MODEL: Final = """
    import pathlib, time

    def busy(seconds):
        pathlib.Path("BUSY").touch()
        time.sleep(seconds)

    if WHEN == "import":
        busy(300)

    class Model:
        inputs = {"X": ("FP32", [1])}
        outputs = {"Y": ("FP32", [1])}

        def __init__(self):
            if WHEN == "load":
                busy(300)

        def predict(self, X):
            if X[0, 0] > 0:
                busy(float(X[0, 0]))
            return {"Y": X}
"""
THREAD: Final = 'backend: "python" parameters { key: "instance_isolation" value { string_value: "thread" } }'


@dataclasses.dataclass
class Place:
    """Where a moment's files are, and a server that accepts connections and never answers.

    Attributes:
        silent: its port.
        called: set once somebody has connected.
    """

    folder: Path
    silent: int
    called: threading.Event

    @property
    def busy(self) -> Path:
        """Exists once the model is busy."""
        return self.folder / "busy"

    def file(self, when: str = "never") -> str:
        """A model's file."""
        code = textwrap.dedent(MODEL).replace("WHEN", repr(when)).replace("BUSY", str(self.busy))
        file = self.folder / "echo.py"
        file.write_text(code)
        return str(file)

    def repository(self, when: str = "never", config: str = "") -> str:
        """A repository with that model."""
        version = self.folder / "models" / "echo" / "1"
        version.mkdir(parents=True)
        Path(self.file(when)).rename(version / "model.py")
        if config:
            (version.parent / "config.pbtxt").write_text(config)
        return str(self.folder / "models")

    def wait(self) -> None:
        """Until the model is busy."""
        wait_for("a busy model", self.busy.exists)

    def wait_for_call(self) -> None:
        """Until somebody waits for the silent server."""
        assert self.called.wait(60)

    @property
    def url(self) -> str:
        """Of the silent server."""
        return f"http://127.0.0.1:{self.silent}"

    @property
    def fleet(self) -> tuple[str, ...]:
        """The silent server as broker and store."""
        return ("--kafka", f"127.0.0.1:{self.silent}", "--redis", f"redis://127.0.0.1:{self.silent}")


Moment = Callable[[Place], Ended]
MOMENTS: Final[dict[str, Moment]] = {}


def moment(title: str) -> Callable[[Moment], Moment]:
    """Name a moment."""

    def named(function: Moment) -> Moment:
        MOMENTS[title] = function
        return function

    return named


def ended(
    arguments: tuple[str, ...], until: Callable[[Running], object], *numbers: signal.Signals,
    between: Callable[[Running], object] = lambda _: None, options: tuple[str, ...] = (),
) -> Ended:  # fmt: skip
    """Run a command until a moment, and end it with these signals."""
    running = Running(arguments, options)
    try:
        until(running)
        return running.signal(*numbers, between=lambda: between(running))
    finally:
        running.close()


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[int, threading.Event]]:
    """A server that accepts connections and never answers: its port, and whether there was one."""
    called, kept = threading.Event(), []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    called.set()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], called
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


def ready(running: Running) -> str:
    """Wait until it serves; returns its address."""
    line = running.line_with("is served at")
    running.line_with("curl")
    return line.split("served at ")[1].split(";")[0]


def call(url: str, seconds: float, answers: list[int]) -> threading.Thread:
    """Call the model; it sleeps so long. The list gets the status."""
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [seconds]}]}
    request = urllib.request.Request(f"{url}/v2/models/echo/infer", json.dumps(body).encode())

    def send() -> None:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60) as response:
            answers.append(response.status)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


# --- penstock serve ---


@moment("penstock serve imports its modules: SIGINT")
def imports(place: Place) -> Ended:
    return ended(
        ("serve", place.file(), *PORTS), lambda running: running.line_with(" numpy\n"), SIGINT, options=("-X", "importtime"),
    )  # fmt: skip


@moment("penstock serve: a model's file is imported, in a process of its own: SIGINT")
def importing(place: Place) -> Ended:
    return ended(("serve", place.file("import"), *PORTS), lambda _: place.wait(), SIGINT)


@moment("penstock serve: a model loads, in a process of its own: SIGINT")
def loading(place: Place) -> Ended:
    return ended(("serve", place.file("load"), *PORTS), lambda _: place.wait(), SIGINT)


@moment("penstock serve: a model loads, in a process of its own: SIGTERM")
def loading_terminated(place: Place) -> Ended:
    return ended(("serve", place.file("load"), *PORTS), lambda _: place.wait(), SIGTERM)


@moment("penstock serve: a model loads, in a thread: SIGINT")
def loading_thread(place: Place) -> Ended:
    repository = place.repository("load", THREAD)
    return ended(("serve", "--model-repository", repository, *PORTS), lambda _: place.wait(), SIGINT)


@moment("penstock serve: onnxruntime optimises a model for half a minute: SIGINT")
def loading_onnx(place: Place) -> Ended:
    from tests.penstock.slow_onnx import write_slow_model

    def until(running: Running) -> None:
        running.line_with("loading ")
        time.sleep(0.5)  # onnxruntime does not say when it begins

    return ended(("serve", str(write_slow_model(place.folder)), *PORTS), until, SIGINT)


@moment("penstock serve is ready: SIGINT")
def is_ready(place: Place) -> Ended:
    return ended(("serve", place.file(), *PORTS), ready, SIGINT)


@moment("penstock serve --processes 2 is ready: SIGINT")
def processes_ready(place: Place) -> Ended:
    def until(running: Running) -> None:
        ready(running)
        running.line_with("all acceptor processes")

    return ended(("serve", place.file(), *PORTS, "--processes", "2"), until, SIGINT)


@moment("penstock serve --data-dir answers calls: SIGINT")
def under_load(place: Place) -> Ended:
    answers: list[int] = []

    def until(running: Running) -> None:
        url = ready(running)
        for _ in range(20):
            call(url, 0.0, answers)
        wait_for("answers", lambda: len(answers) == 20)

    return ended(("serve", place.file(), *PORTS, "--data-dir", str(place.folder / "data")), until, SIGINT)


@moment("penstock serve runs a short request: SIGTERM; it is answered")
def short_request(place: Place) -> Ended:
    return _while_it_runs(place, 0.4, [200], SIGTERM)


@moment("penstock serve runs a long request: SIGINT")
def long_request(place: Place) -> Ended:
    return _while_it_runs(place, 300.0, [], SIGINT)


@moment("penstock serve runs a long request: SIGTERM, and SIGINT while it drains")
def long_request_drains(place: Place) -> Ended:
    return _while_it_runs(place, 300.0, [], SIGTERM, SIGINT)


@moment("penstock serve runs a long request: SIGINT twice")
def long_request_twice(place: Place) -> Ended:
    return _while_it_runs(place, 300.0, [], SIGINT, SIGINT)


def _while_it_runs(place: Place, seconds: float, expected: list[int], *numbers: signal.Signals) -> Ended:
    answers: list[int] = []
    threads = []

    def until(running: Running) -> None:
        threads.append(call(ready(running), seconds, answers))
        place.wait()

    found = ended(
        ("serve", place.file(), *PORTS), until, *numbers, between=lambda running: running.line_with("draining")
    )
    threads[0].join(10)
    assert [answer for answer in answers if answer == 200] == expected
    return found


# --- a fleet without its servers ---


@moment("penstock gateway: broker and store do not answer: SIGINT")
def gateway(place: Place) -> Ended:
    return ended(("gateway", *PORTS, *place.fleet), lambda _: place.wait_for_call(), SIGINT)


@moment("penstock worker: broker and store do not answer: SIGINT")
def worker(place: Place) -> Ended:
    repository = place.repository()
    return ended(
        ("worker", "--model-repository", repository, "--metrics-port", "0", *place.fleet),
        lambda _: place.wait_for_call(),
        SIGINT,
    )


@moment("penstock scaler: broker and store do not answer: SIGTERM")
def scaler(place: Place) -> Ended:
    return ended(
        ("scaler", "--grpc-port", "0", "--metrics-port", "0", *place.fleet), lambda _: place.wait_for_call(), SIGTERM
    )


# --- commands that wait ---


@moment("penstock infer waits for an answer: SIGINT")
def infer(place: Place) -> Ended:
    return ended(("infer", "echo", "-i", "X=[[1]]", "--url", place.url), lambda _: place.wait_for_call(), SIGINT)


@moment("penstock models load waits for an answer: SIGINT")
def models(place: Place) -> Ended:
    return ended(("models", "load", "echo", "--url", place.url), lambda _: place.wait_for_call(), SIGINT)


@moment("penstock status --watch waits for an answer: SIGINT")
def status(place: Place) -> Ended:
    return ended(("status", "--watch", "--gateway", place.url), lambda _: place.wait_for_call(), SIGINT)


@moment("penstock doctor waits for broker and store: SIGINT")
def doctor(place: Place) -> Ended:
    return ended(("doctor", *place.fleet), lambda _: place.wait_for_call(), SIGINT)


@moment("penstock verify waits for broker and store: SIGINT twice")
def verify(place: Place) -> Ended:
    return ended(("verify", "--seed", "1", *place.fleet), lambda running: running.line_with("seed 1"), SIGINT, SIGINT)


@moment("penstock check --run: a model loads: SIGINT")
def check(place: Place) -> Ended:
    return ended(("check", "--run", place.repository("load")), lambda _: place.wait(), SIGINT)


@moment("penstock batch submit waits for the gateway: SIGINT")
def batch(place: Place) -> Ended:
    rows = place.folder / "rows.jsonl"
    rows.write_text('{"X": [1]}\n' * 10)
    target = str(place.folder / "answers.jsonl")
    state = str(place.folder / "state")
    return ended(
        ("batch", "submit", "echo", str(rows), "-o", target, "--url", place.url, "--state-dir", state),
        lambda _: place.wait_for_call(),
        SIGINT,
    )
