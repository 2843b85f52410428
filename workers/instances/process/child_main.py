"""The inside of a child process: it obeys orders, one after the other, until the worker hangs up.

Invariants: one thread does everything, so a model's device, event loop and thread-local state see one thread from load to close, as
in a thread of the worker; the child ends when the line does; what a model keeps of its inputs stays as it was.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Sequence
from typing import Any, Final

from protocol.messages import Failure
from protocol.tensors import Tensor
from workers.backends import load_backend, usable_gpus
from workers.backends.base import Instance, Outcome
from workers.instances.process import threads
from workers.instances.process.channel import Broken, Line, packed
from workers.instances.process.messages import (
    Told,
    hear_placement,
    hear_requests,
    hear_version,
    tell_error,
    tell_metadata,
    tell_outcome,
)
from workers.instances.process.namespace import give_way
from workers.instances.process.segments import Slot, View
from workers.instances.warmup import samples, warm_up
from workers.repository.version import ModelVersion
from workers.system import cpu_yield


class Inside:
    """One child, as its orders see it: at most one model, one instance of it.

    Args:
        line: to the worker.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._backend: Any = None
        self._version: ModelVersion | None = None
        self._instance: Instance | None = None
        self._views: dict[int, View] = {}
        self._outputs = Slot(0)
        self._orders: Final = {
            "inspect": self._inspect,
            "load": self._load,
            "run": self._run,
            "close": self._close,
        }

    def serve(self) -> None:
        """Obey until the line ends, or was told to close."""
        with contextlib.suppress(Broken):
            while True:
                order, descriptors = self._line.receive()
                for descriptor in descriptors:
                    self._views[order["slot"]] = View(descriptor)
                self._orders[order["do"]](order)
                if order["do"] == "close":
                    return

    def _inspect(self, order: Told) -> None:
        try:
            backend = self._find(hear_version(order["version"]), order["threads"])
            gpus = usable_gpus(backend, order["gpus"])
            metadata = backend.inspect(self._version)
            self._line.send(packed({"metadata": tell_metadata(metadata), "gpus": list(gpus)}))
        except BaseException as exc:  # SystemExit, too: the worker would only see that the process has ended
            self._line.send(packed({"error": tell_error(exc)}))

    def _load(self, order: Told) -> None:
        try:
            version = hear_version(order["version"])
            placement = hear_placement(order["placement"])
            self._instance = self._find(version, placement.threads).load(version, placement)
            warm_up(self._instance, version.config, samples(version.config, str(version.version), version.folder))
            cpu_yield.end()
            self._line.send(packed({}))
        except BaseException as exc:  # see `_inspect`
            self._line.send(packed({"error": tell_error(exc)}))

    def _find(self, version: ModelVersion, share: int) -> Any:
        if self._backend is None:
            threads.limit(share)
            self._backend = load_backend(version.config.backend)
            if hasattr(self._backend, "alone"):
                self._backend.alone = True
            give_way(list(dict.fromkeys((version.path.parent, version.folder))))
        self._version = version
        return self._backend

    def _run(self, order: Told) -> None:
        cpu_yield.end()  # nothing is left to do but where Linux refused it after the load
        answer, descriptors = self._batch(order)
        self._line.send(packed(answer), descriptors)

    def _batch(self, order: Told) -> tuple[Told, list[int]]:
        """The answer to a batch: outcomes, or an error, with the times when it ran where it came so far."""
        view = self._views[order["slot"]]
        answer: Told = {"ran": [0.0, 0.0]}
        descriptors: list[int] = []
        try:
            descriptors = self._write(self._outcomes(order, view.read(order["tensors"]), answer), answer)
        except BaseException as exc:  # SystemExit of a model must not end its process with the batch unanswered
            answer["error"] = tell_error(exc)
            traceback.clear_frames(exc.__traceback__)  # they would keep the inputs alive
        answer["kept"] = view.kept  # by the model: its memory must not be written to again then
        return answer, descriptors

    def _outcomes(self, order: Told, tensors: list[Tensor], answer: Told) -> Sequence[Outcome]:
        assert self._instance is not None
        assert self._version is not None
        requests = hear_requests(order["requests"], tensors, self._version)
        prepared = self._instance.prepare(requests)
        answer["ran"][:] = [time.monotonic()] * 2
        try:
            raw = self._instance.run(prepared)
        finally:
            answer["ran"][1] = time.monotonic()
        answer["splits"] = True
        return self._instance.split(requests, raw)

    def _write(self, outcomes: Sequence[Outcome], answer: Told) -> list[int]:
        """Put the outcomes' tensors into shared memory; the descriptors that go with the answer."""
        flat = [tensor for outcome in outcomes if not isinstance(outcome, Failure) for tensor in outcome]
        former = self._outputs.segment
        answer["tensors"] = self._outputs.write(flat)
        answer["outcomes"] = [tell_outcome(outcome) for outcome in outcomes]
        segment = self._outputs.segment
        return [] if segment is None or segment is former else [segment.descriptor]

    def _close(self, _: Told) -> None:
        instance, self._instance = self._instance, None
        try:
            if instance is not None:
                instance.close()
            self._line.send(packed({}))
        except BaseException as exc:  # see `_inspect`
            self._line.send(packed({"error": tell_error(exc)}))
