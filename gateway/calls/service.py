"""The object that frontends call: they submit a call, and `on_done` gets its answer. No task, future or timer per request.

Invariants: a submitted call is answered exactly once, or was cancelled by its caller; only validated and admitted requests are
published.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any, Final

from gateway.admission.admission import Admissions, Limits
from gateway.admission.arrivals import Arrivals
from gateway.admission.budget import Budgets
from gateway.aliases.table import AliasTable
from gateway.calls.batch_topics import BatchTopics
from gateway.calls.completion import Completion
from gateway.calls.control_topic import ControlTopic
from gateway.calls.expected import ExpectedWait
from gateway.calls.lanes import PARAMETER, lane_of
from gateway.calls.pending import Call
from gateway.calls.positions import Positions
from gateway.calls.publisher import Publisher
from gateway.calls.routed import RoutedCalls
from gateway.calls.shadows import Shadows
from gateway.calls.waiting import WaitingHints
from gateway.catalogue import statistics
from gateway.catalogue.catalogue import Catalogue, RequestQueue, Served
from gateway.catalogue.heartbeats import HeartbeatPoller, is_sound
from gateway.handle import Keyring
from gateway.ids import Ids, trace_context
from gateway.metrics import GatewayMetrics
from gateway.routing.capacity import HeartbeatCapacity
from gateway.routing.router import Router
from gateway.scaling.view import ScalingView
from gateway.server_settings import LogSettings, TraceSettings
from gateway.settings import GatewaySettings
from gateway.shared_memory import Regions
from protocol.codec import MAX_NUMBER, encode_request, micros, size_limit
from protocol.control import ALIASES
from protocol.errors import FleetError, InvalidArgument, NotFound, TooLarge, Unavailable, quoted
from protocol.frames import MAX_RECORD
from protocol.messages import InferReply, InferRequest, Lane, Parameters
from protocol.naming import Names, ref
from protocol.ports import OutRecord, Record
from protocol.runtime.clock import Clock
from protocol.transport import Transport
from protocol.v2 import InferBody

MAX_VALUE: Final = MAX_RECORD - 4096
"""Largest value of a record, in bytes; the rest is for its headers."""
_RESERVED: Final = frozenset({PARAMETER, "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"})

OnDone = Callable[[InferReply], None]


@dataclasses.dataclass(slots=True)
class CallContext:
    """The parts of a call that are not in its body.

    Attributes:
        id: its fleet id.
        principal: its caller.
        accepted: when its last byte was read.
        deadline: when it is answered 504; None for never.
        traceparent: as sent by the caller, or "".
        claimed: keyed or asynchronous.
    """

    id: str
    principal: str
    accepted: float
    deadline: float | None
    traceparent: str = ""
    claimed: bool = False


FULL_RETRY: Final = 5.0
"""`Retry-After` when the result store is full: its entries of plain calls expire steadily."""


class Service:
    """Takes calls and owns the parts that answer them.

    Attributes:
        catalogue: of model versions.
        control: the topic of the models' desired state.
        aliases: of models.
        budgets: of bytes held, of all kinds.
        admissions: limits on the waiting calls of each lane.
        admission: those of interactive calls, and on bodies that are being read.
        arrivals: calls that wait for their model.
        capacity: of the workers, from their heartbeats.
        completion: waiting calls, and how they end.
        positions: committed offsets of the workers' groups.
        keys: sign handles.
        channel: the wake-up channel of this gateway.
        draining: whether new calls are refused.
        not_ready: why this gateway is not ready, else ""; set by `background`.
        fill: used share of the result store's memory; set by `background`.
        waiting: hints about requests for models without workers.
        scaling: backlogs, and the workers that they need.
        metrics_at: HOST:PORT of Prometheus' `/metrics`; "" where there is none.
        regions: shared memory that clients have registered.
        trace_settings, log_settings: Triton's, of this process.
    """

    def __init__(
        self, settings: GatewaySettings, transport: Transport, names: Names, clock: Clock, metrics: GatewayMetrics
    ) -> None:
        self.settings = settings
        self.transport = transport
        self.names = names
        self.clock = clock
        self.metrics = metrics
        self.aliases = AliasTable(random.Random(f"{settings.gateway} aliases"))  # noqa: S311  # as the router's below
        self.catalogue = Catalogue(names, metrics.counters, self.aliases)
        self.catalogue.suggests = not settings.http_restricted_api and not settings.grpc_restricted_protocol
        self.control = ControlTopic(transport.bus, names)
        self.control.handle(ALIASES, self._redirect)
        limits = Limits(
            settings.max_queued_calls,
            settings.max_queued_bytes,
            settings.max_queued_calls_per_model,
            settings.max_long_polls,
        )
        self.budgets = Budgets.of(settings.max_queued_bytes)
        self.admissions = Admissions.under(limits, self.budgets)
        self.admission = self.admissions.interactive
        self.completion = Completion(transport.results, names, clock, metrics, self.admissions, settings)
        self.arrivals = Arrivals(self.catalogue, self.admission, settings.model_wait, clock)
        self.positions = Positions(transport.bus, settings.offsets_max_age)
        self.heartbeats = HeartbeatPoller(transport.directory, clock, settings.worker_timeout)
        self.keys = Keyring(settings.signing_secret)
        batch_topics = BatchTopics(transport.bus, names, self.catalogue)
        self.capacity = HeartbeatCapacity(names, self.catalogue)
        self.publisher = Publisher(
            transport.bus, metrics, self.completion.fail, batch_topics, transport.microtasks, self._routed()
        )
        self.waiting, self.scaling = self._watch_waiting()
        self.new_id = Ids()
        self.shadows = Shadows(
            self.catalogue, self._submit_copy, random.Random(f"{settings.gateway} shadows").random,  # noqa: S311  # as above
            self.budgets.batch, metrics.shadows,
        )  # fmt: skip
        self.channel = names.gateway_channel(settings.gateway)
        self.draining = False
        self.not_ready = "it is starting"
        self.fill = 0.0
        self.metrics_at = settings.metrics_at
        self.regions = Regions(settings.allow_shared_memory)
        self.trace_settings = TraceSettings(self.catalogue.known)
        self.log_settings = LogSettings()
        self._show(metrics)

    def _routed(self) -> RoutedCalls | None:
        """Chooses the partition of each group of requests; None where the log does so."""
        settings = self.settings
        if settings.routing != "queue" or self.transport.bus.immediate is not None:
            return None
        dice = random.Random(settings.gateway)  # noqa: S311  # decides no secret; the id makes simulations repeatable
        return RoutedCalls(Router(self.capacity, dice, settings.worker_timeout), self.clock)

    def _show(self, metrics: GatewayMetrics) -> None:
        """Let the metrics look at what is held now."""
        metrics.inflight = self.completion.pending.__len__
        metrics.batch_inflight = lambda: self.admissions.batch.calls
        metrics.queued_bytes = lambda: self.admission.size + self.admissions.batch.size
        metrics.held_bytes = lambda: self.budgets.whole.used
        metrics.store_used = lambda: self.fill
        metrics.ready = lambda: self.ready

    @property
    def ready(self) -> bool:
        """Whether calls are taken: broker and result store answer, the catalogue was read, and the gateway is not draining."""
        return not self.not_ready and not self.draining

    def check_open(self, lane: Lane = Lane.INTERACTIVE) -> None:
        """Refuse a call early, before its body is read.

        Raises:
            Unavailable: the gateway is draining, or the result store is full.
            Exhausted: too many calls wait.
        """
        if self.draining:
            raise Unavailable(
                "Server is stopping, this gateway has stopped accepting new inference requests", retry_after=1.0
            )
        if self.fill >= self.settings.full_limit:
            raise Unavailable(
                f"the result store is {self.fill:.0%} full; calls are taken below {self.settings.full_limit:.0%}",
                retry_after=FULL_RETRY,
            )
        self.admissions.of(lane).check()

    def _redirect(self, record: Record) -> None:
        """Follow a record of aliases."""
        self.aliases.apply(record)
        self.catalogue.redirected()
        self.arrivals.changed()

    def resolve(self, model: str, version: str, key: str = "") -> Served:
        """The ready model version that a call goes to.

        Args:
            model: its name, or `<model>@<alias>`.
            version: "" for none.
            key: its `Idempotency-Key` with its caller, which always gets the same version of a route; "" without one.

        Raises:
            NotFound, Unavailable: with Triton's words.
            InvalidArgument: an alias and a version are named.
        """
        served = self.catalogue.pick(model, version, key)
        if not served.workers and self.settings.no_worker_policy == "reject":
            seconds = self.scaling.fleet.cold_start((served.model, served.version))
            raise Unavailable(
                f"no worker serves model '{model}' version {served.version} now", retry_after=seconds or 1.0
            )
        if not served.workers:
            self.waiting.expect(served)
        return served

    def _watch_waiting(self) -> tuple[WaitingHints, ScalingView]:
        """What follows from requests that wait for a worker: hints to scalers, and what callers are told."""
        transport = self.transport
        hints = WaitingHints(transport.directory)
        if transport.bus.immediate is None:
            self.publisher.on_published = hints.published
        scaling = ScalingView(
            transport.bus, transport.results, self.names, self.catalogue, self.clock, self.settings.worker_timeout
        )
        self.completion.has_worker = self._has_worker
        expected = ExpectedWait(
            self.capacity, self.settings.worker_timeout, scaling.fleet.seconds_to_worker, self.clock
        )
        for admission in (self.admissions.interactive, self.admissions.batch):
            admission.expected = expected.seconds
        return hints, scaling

    def _has_worker(self, model: str, version: str) -> bool:
        try:
            return self.catalogue.get(model, version).workers > 0
        except FleetError:
            return True  # it is gone: another error says so

    def queue(self, served: Served, parameters: Parameters, header: Lane | None) -> RequestQueue:
        """The queue that a call joins.

        Args:
            parameters: of its body.
            header: the lane that its header names; None without one.

        Raises:
            InvalidArgument: as `lane_of`.
        """
        return served if lane_of(header, parameters) is not Lane.BATCH else served.batch

    def request(self, served: RequestQueue, body: InferBody, context: CallContext) -> InferRequest:
        """The request message of a call, validated against its model.

        Raises:
            InvalidArgument: naming what does not fit.
        """
        outputs = body.output_names if body.outputs else ()
        served.check(body.inputs, outputs, body.id)
        request = InferRequest(
            context.id, served.model, served.version, body.inputs, outputs, body.parameters, body.id, context.principal,
            self.channel, context.deadline, 0, 0.0, trace_context(context.traceparent, context.id), context.claimed,
            micros(context.accepted) / 1e6,  # as on the wire, so that a cancellation compares exactly
            held=body.held,
        )  # fmt: skip
        if body.parameters and not _RESERVED.isdisjoint(body.parameters):
            _take_reserved(request)
        return request

    def submit(self, served: RequestQueue, request: InferRequest, on_done: OnDone) -> Call:
        """Publish a plain call; `on_done` gets its answer, outputs or an error.

        Raises:
            Exhausted, TooLarge: it was refused.
        """
        record = self.record(request)
        if served.shadow is not None:
            on_done = self.shadows.copied(served.shadow, request, on_done)
        call = self.enter(served, request, record.size, on_done)
        self.publisher.enqueue(served.topic, record, call)
        return call

    def _submit_copy(self, served: RequestQueue, request: InferRequest, on_done: OnDone) -> Call:
        """Publish a request again, as a new one of another version."""
        now = self.clock()
        copy = dataclasses.replace(
            request, id=self.new_id(), version=served.version, deadline=now + self.settings.default_timeout,
            accepted=micros(now) / 1e6, published=0.0,
        )  # fmt: skip
        return self.submit(served, copy, on_done)

    def record(self, request: InferRequest) -> OutRecord:
        """The request's record: the request itself where the bus takes it, else its bytes.

        Raises:
            TooLarge: naming the limit.
        """
        request.published = self.clock()
        if self.publisher.immediate:
            size = size_limit(request.inputs, request.label, request.parameters)
            if size <= MAX_VALUE:
                return OutRecord(b"", (), None, request.published, request, max(size, request.held))
        value, headers = encode_request(request)
        if len(value) > MAX_VALUE:
            raise TooLarge(f"the request makes a record of {len(value)} bytes; at most {MAX_VALUE} are allowed")
        return OutRecord(value, headers, None, request.published)

    def enter(self, served: RequestQueue, request: InferRequest, size: int, on_done: OnDone) -> Call:
        """Register a call that waits for its answer; publishes nothing.

        Raises:
            Exhausted: too many calls wait.
        """
        lane = served.lane
        self.admissions.of(lane).admit(served.topic, size)
        call = Call(
            ref(request.principal, request.id), served.topic, served.model, served.version, request.label, size,
            math.inf if request.deadline is None else request.deadline, request.accepted, on_done, request.claimed, lane=lane,
            rows=request.inputs[0].shape[0] if served.batches and request.inputs else 1,
        )  # fmt: skip
        self.completion.expect(call, request.published)
        return call

    def watch(self, request_ref: str, model: str, version: str, deadline: float, on_done: OnDone) -> Call:
        """Wait for a request that was published before. It is not counted, and its deadline ends only the wait.

        Args:
            model, version: "" if unknown: a store that lost its data learns of a request from its worker.
        """
        now = self.clock()
        call = Call(
            request_ref, "", model, version, "", 0, deadline, now, on_done, claimed=True, owner=False, counted=False
        )
        call.sweep_at = now + 0.05
        self.completion.expect(call, now)
        return call

    async def statistics(self, model: str = "", version: str = "", *, per_worker: bool = False) -> dict[str, Any]:
        """Triton's statistics, from the fleet's totals. Every call that was answered before this one is counted.

        Args:
            per_worker: each entry also has `workers`: what each live or lately lost worker counted since it loaded the version.

        Raises:
            NotFound: there is no such model or version, or it is not ready.
            Unavailable: the result store cannot be reached.
        """
        if not model:
            chosen = self.catalogue.all()
        elif version:
            chosen = [self.catalogue.get(model, version)]
        else:
            chosen = self.catalogue.versions(model)
        ready = [(served.model, served.version) for served in chosen if served.ready]
        if model and not ready:
            raise NotFound(f"model '{model}' is not ready")
        stats = statistics.model_stats(ready, await self.transport.results.totals(ready))
        if per_worker:
            beats = [beat for beat in await self.heartbeats.poll(statistics=True) if is_sound(beat)]
            statistics.add_workers(stats, beats, self.clock())
        return stats

    def count_refusal(self, error: FleetError) -> None:
        """Count a call that was refused before it was published."""
        self.metrics.refused(error.code.value)

    async def close(self) -> None:
        """Finish work in flight."""
        await self.heartbeats.close()
        await self.shadows.close()
        await self.publisher.close()
        await self.waiting.close()
        await self.scaling.close()
        await self.completion.close()
        self.regions.close()


def _take_reserved(request: InferRequest) -> None:
    """Move Triton's scheduling parameters out of the model's parameters; sequence parameters are dropped."""
    parameters: Parameters = dict(request.parameters)
    request.priority = _unsigned(parameters.pop("priority", 0), "priority")
    request.timeout = _unsigned(parameters.pop("timeout", 0), "timeout") / 1e6
    for name in _RESERVED:
        parameters.pop(name, None)
    request.parameters = parameters


def _unsigned(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise InvalidArgument(
            f"parameter '{name}' must be an unsigned integer of at most {MAX_NUMBER}, not {quoted(value)}"
        )
    return value
