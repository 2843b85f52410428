"""The child's side: it sets up its process and obeys commands, one after the other, until the worker closes the channel.

Invariants: one thread does everything but the model's `is_ready`, so a model's device, event loop and thread-local state see one
thread from load to close, as in a thread of the worker; the child exits when the channel breaks; the memory of inputs that a model
keeps is never written again.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import io
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

import structlog

from protocol.messages import Failure
from protocol.tensors import Tensor
from workers.backends import load_backend, usable_gpus
from workers.backends.base import Instance, Outcome
from workers.backends.opening import load_version, open_version, reconfigured
from workers.instances.batching_check import try_batching
from workers.instances.process import threads
from workers.instances.process.channel import Channel, ChannelBroken, encode_message
from workers.instances.process.messages import (
    Message,
    decode_placement,
    decode_requests,
    decode_version,
    encode_error,
    encode_metadata,
    encode_outcome,
)
from workers.instances.process.namespace import prefer_modules_in
from workers.instances.process.segments import SegmentSlot, SegmentView
from workers.instances.readiness import report_through
from workers.instances.warmup import samples, warm_up
from workers.repository.placement import expected_place
from workers.repository.version import ModelVersion
from workers.system import cpu_yield

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_IN_HEAP: Final = 32 * 1024 * 1024
"""Bytes; the most that the allocator allows."""
_KEPT: Final = 128 * 1024 * 1024
"""Bytes of free memory that a child may hold on to."""


def serve(commands: socket.socket) -> None:
    """Run as a child that has just been forked, until it must exit."""
    _set_up()
    CommandLoop(Channel(commands)).serve()
    sys.stdout.flush()


def _set_up() -> None:
    cpu_yield.begin()  # until the model is loaded; undoing what the fork server's own call changed has no effect here
    faulthandler.enable()  # a crash then says in the worker's log where it was
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_to_worker)
    sys.stdout = sys.__stdout__ = _line_buffered(1)  # type: ignore[misc]  # the fork server's own wrote elsewhere
    sys.stderr = sys.__stderr__ = _line_buffered(2)  # type: ignore[misc]
    _configure_log()
    _keep_memory()
    os._exit = _exit_after_saying_where(os._exit)  # type: ignore[assignment]


def _exit_after_saying_where(leave: Callable[[int], NoReturn]) -> Callable[[int], NoReturn]:
    """`os._exit` for the model's code: first the stack is printed as in a crash, unless a process that it has forked ends."""
    own = os.getpid()

    def exit_(status: int) -> NoReturn:
        if os.getpid() == own:
            os.write(2, b"Fatal Python error: os._exit\n\n")
            faulthandler.dump_traceback(2, all_threads=False)
        leave(status)

    return exit_


def _keep_memory() -> None:
    """Let a batch use the memory that the last one freed.

    GNU's allocator would return arrays of some MB to the system after every batch, and the page faults to get them back took ten
    times as long as everything else that a child does with a batch of 5 MB.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def _line_buffered(descriptor: int) -> io.TextIOWrapper:
    raw = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _leave_to_worker(number: int, frame: FrameType | None) -> None:
    """A signal to the whole process group also reaches the worker, which lets batches finish first. Not SIG_IGN: programs that a
    model starts would inherit that."""


def _configure_log() -> None:
    """Lines for the worker's log, which adds the time: the level in front, where `child` looks for it."""

    def line(_: Any, level: str, event: Any) -> str:
        text = str(event.pop("event", ""))
        more = " ".join(f"{key}={value!r}" for key, value in event.items())
        return f"<{logging.getLevelName(level.upper())}>{text} {more}".rstrip()

    structlog.configure(processors=[line], logger_factory=structlog.PrintLoggerFactory(sys.stderr))


class CommandLoop:
    """Obeys the commands of `commands`, for at most one instance of one model.

    Args:
        channel: to the worker.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._backend: Any = None
        self._version: ModelVersion | None = None
        self._instance: Instance | None = None
        self._opened: Any = None
        self._views: dict[int, SegmentView] = {}
        self._outputs = SegmentSlot(0)
        self._commands: Final = {
            "inspect": self._inspect,
            "load": self._load,
            "try_batching": self._try_batching,
            "reconfigure": self._reconfigure,
            "watch": self._watch,
            "run": self._run,
            "close": self._close,
        }

    def serve(self) -> None:
        """Obey until the channel breaks, or the instance is closed."""
        with contextlib.suppress(ChannelBroken):
            while True:
                command, descriptors = self._channel.receive_message()
                for descriptor in descriptors:
                    self._take(command, descriptor)
                self._commands[command["name"]](command)
                if command["name"] == "close":
                    return

    def _take(self, command: Message, descriptor: int) -> None:
        """A descriptor came with the command: a segment of shared memory, or where to report whether the model is ready."""
        if command["name"] != "watch":
            self._views[command["slot"]] = SegmentView(descriptor)
            return
        check = getattr(self._instance, "ready_check", None)
        assert check is not None
        report_through(descriptor, check, command["model"])

    def _watch(self, _: Message) -> None:
        self._channel.send_message(encode_message({}))

    def _inspect(self, command: Message) -> None:
        try:
            version = decode_version(command["version"])
            backend = self._prepare_backend(version, command["threads"])
            gpus = usable_gpus(backend, command["gpus"])
            metadata = None
            if command["look"]:
                place = expected_place(version.config, gpus, command["threads"])
                metadata, self._opened = open_version(backend, version, place)
            self._channel.send_message(encode_message({"metadata": encode_metadata(metadata), "gpus": list(gpus)}))
        except BaseException as exc:  # SystemExit too: otherwise the worker would only see that the process has exited
            self._channel.send_message(encode_message({"error": encode_error(exc)}))

    def _load(self, command: Message) -> None:
        try:
            version = decode_version(command["version"])
            placement = decode_placement(command["placement"])
            backend, opened = self._prepare_backend(version, placement.threads), self._opened
            self._opened = None
            self._instance = load_version(backend, version, placement, opened)
            del opened
            warm_up(self._instance, version.config, samples(version.config, str(version.version), version.folder))
            cpu_yield.end()
            watchable = getattr(self._instance, "ready_check", None) is not None
            self._channel.send_message(encode_message({"watchable": watchable}))
        except BaseException as exc:  # see `_inspect`
            self._channel.send_message(encode_message({"error": encode_error(exc)}))

    def _try_batching(self, _: Message) -> None:
        assert self._instance is not None
        assert self._version is not None
        verdict = try_batching(self._instance, self._version.config)
        self._channel.send_message(encode_message(dataclasses.asdict(verdict)))

    def _reconfigure(self, command: Message) -> None:
        try:
            version = decode_version(command["version"])
            assert self._instance is not None
            renewed = reconfigured(self._instance, version.config)
            if renewed is not None:
                self._instance, self._version = renewed, version
            self._channel.send_message(encode_message({"done": renewed is not None}))
        except BaseException as exc:  # see `_inspect`
            self._channel.send_message(encode_message({"error": encode_error(exc)}))

    def _prepare_backend(self, version: ModelVersion, share: int) -> Any:
        if self._backend is None:
            threads.limit(share)
            self._backend = load_backend(version.config.backend)
            if hasattr(self._backend, "dedicated"):
                self._backend.dedicated = True
            prefer_modules_in(list(dict.fromkeys((version.path.parent, version.folder))))
        self._version = version
        return self._backend

    def _run(self, command: Message) -> None:
        cpu_yield.end()  # again: Linux may have refused it after the load
        reply, descriptors = self._batch(command)
        self._channel.send_message(encode_message(reply), descriptors)

    def _batch(self, command: Message) -> tuple[Message, list[int]]:
        """The reply to a batch: outcomes or an error, and when it ran, if it did."""
        view = self._views[command["slot"]]
        reply: Message = {"ran": [0.0, 0.0]}
        descriptors: list[int] = []
        try:
            descriptors = self._write(self._outcomes(command, view.view_tensors(command["tensors"]), reply), reply)
        except BaseException as exc:  # SystemExit of a model must not end its process with the batch unanswered
            reply["error"] = encode_error(exc)
            traceback.clear_frames(exc.__traceback__)  # they would keep the inputs alive
        reply["kept"] = view.in_use  # by the model: then this memory must not be written again
        return reply, descriptors

    def _outcomes(self, command: Message, tensors: list[Tensor], reply: Message) -> Sequence[Outcome]:
        assert self._instance is not None
        assert self._version is not None
        requests = decode_requests(command["requests"], tensors, self._version)
        prepared = self._instance.prepare(requests)
        reply["ran"][:] = [time.monotonic()] * 2
        try:
            raw = self._instance.run(prepared)
        finally:
            reply["ran"][1] = time.monotonic()
        reply["splits"] = True
        return self._instance.split(requests, raw)

    def _write(self, outcomes: Sequence[Outcome], reply: Message) -> list[int]:
        """Put the outcomes' tensors into shared memory; returns the descriptors that go with the reply."""
        flat = [tensor for outcome in outcomes if not isinstance(outcome, Failure) for tensor in outcome]
        former = self._outputs.segment
        reply["tensors"] = self._outputs.write_tensors(flat)
        reply["outcomes"] = [encode_outcome(outcome) for outcome in outcomes]
        segment = self._outputs.segment
        return [] if segment is None or segment is former else [segment.descriptor]

    def _close(self, _: Message) -> None:
        instance, self._instance = self._instance, None
        try:
            if instance is not None:
                instance.close()
            self._channel.send_message(encode_message({}))
        except BaseException as exc:  # see `_inspect`
            self._channel.send_message(encode_message({"error": encode_error(exc)}))
