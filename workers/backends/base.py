"""The interface of backends, which load a model version onto a device and run batches there.

A batch goes through three calls, which overlap between batches: `prepare` (decode and stack, while the previous batch runs),
`run` (the only call that touches the device, one at a time per instance), `split` (cut the outputs, while the next batch runs).
Invariant: `prepare` and `split` keep no state in the instance, so they may run in another thread than `run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from protocol.messages import Failure, InferRequest
from protocol.tensors import Tensor
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion

Outcome = tuple[Tensor, ...] | Failure
"""One request's result in a batch: its outputs, or why it has none."""


class Instance(Protocol):
    """One loaded copy of a model on one device.

    An attribute `loop_safe` that is true says that `run` only computes (no waiting, no I/O, no state tied to a thread), so that it
    may be called on another thread than `load`. Runs that are expected to take less than handing them over costs then happen on
    the event loop (`workers.instances.inline_policy`). Without it every run is on the instance's own thread.

    An attribute `ready_check` that is a function without arguments is the model's own `is_ready`: it says, or awaits, whether the
    model is ready. It is called once a second, on a thread of its own (`workers.instances.readiness`).

    A method `keep(raw)` is called right after `run`, on its thread, where the next run may begin before the answers are made: it
    returns what `run` did with everything copied that the next run may write to. Without it, the next run must write to none of it.
    """

    def prepare(self, requests: Sequence[InferRequest]) -> Any:
        """The argument of `run`, made from the requests' inputs (all of one shape class)."""

    def run(self, prepared: Any) -> Any:
        """Execute the whole batch.

        Raises:
            FleetError or any other exception: the whole batch failed.
        """

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Outcome]:
        """One outcome per request, in order, with the outputs that it asked for."""

    def close(self) -> None:
        """Free the model's memory and device."""


class Backend(Protocol):
    """Loads models of one kind. Created once per process, without arguments, through its entry point."""

    def inspect(self, version: ModelVersion) -> BackendMetadata | None:
        """The model file's own metadata, for completing and checking the configuration; None if it has none.

        Raises:
            ConfigError: the file cannot be read as such a model.
        """

    def load(self, version: ModelVersion, placement: Placement) -> Instance:
        """Load one instance; `version.config` is complete.

        Raises:
            ConfigError, ModelFailed: names the fault and its place.
        """
