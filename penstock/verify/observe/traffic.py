"""The callers of a run: they send the plan's calls and record what they see."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack
import numpy as np
import orjson

from penstock.client import requests
from penstock.verify.observe.history import CallEnd, History, ObservedCall, ProducedRecord, digest
from penstock.verify.observe.http import Caller, ConnectionLost, NoAnswer, Response
from penstock.verify.observe.raw import TROUBLE, RawKafka
from penstock.verify.plan.plan import PAD, Call, CallKind
from protocol.errors import FleetError
from protocol.naming import Names, ref

CALLERS: Final = 64
LONGEST: Final = 75.0
"""Seconds after which an unanswered call counts as silent; the gateway's default deadline is 60."""
KEEP_TRYING: Final = 90.0
"""Seconds for which a caller with a key or a handle retries."""
PADDING: Final = np.array([[bytes(PAD)]], dtype=object)
AGAIN: Final = frozenset({429, 499, 503, 504})


class Traffic:
    """Sends calls.

    Args:
        urls: of the gateways.
        log: for records that are written directly to Kafka.
        names: the run's.
        clock: seconds since the epoch on the store's clock.
        history: receives the observations.
    """

    def __init__(
        self, urls: list[str], log: RawKafka, names: Names, clock: Callable[[], float], history: History
    ) -> None:
        self._callers = [Caller(url, LONGEST) for url in urls]
        self._log = log
        self._names = names
        self._clock = clock
        self._history = history
        self._room = asyncio.Semaphore(CALLERS)

    async def make_call(self, call: Call) -> None:
        """Make one call, and record its result."""
        async with self._room:
            if call.kind in {CallKind.DIRECT, CallKind.DUPLICATE, CallKind.GARBAGE}:
                await self._produce(call)
            elif call.kind in {CallKind.ASYNC, CallKind.CANCELLED}:
                await self._submit(call)
            elif call.kind in {CallKind.KEYED, CallKind.SHARED}:
                await asyncio.gather(*(self._insist(call, call.gateway + copy) for copy in range(call.copies)))
            else:
                self._history.seen.append(await self._post(call, call.gateway, timeout=call.limit or None))

    async def close(self) -> None:
        """Close all connections."""
        for caller in self._callers:
            await caller.close()

    # --- over HTTP ----------------------------------------------------------------------------------------------------

    async def _ask(self, gateway: int, request: requests.Request) -> Response:
        caller = self._callers[gateway % len(self._callers)]
        return await caller.request(request.method, request.path, request.headers, request.body)

    async def _post(self, call: Call, gateway: int, *, wait: bool = True, **options: Any) -> ObservedCall:
        """One infer call of one caller; `text` holds the Location of a 202."""
        asked = requests.infer(
            call.model,
            {"NUMBER": np.array([[call.number]]), "MILLIS": np.array([[call.millis]]), "PAD": PADDING},
            requests.InferOptions(**options),
            wait=wait,
        )
        return await self._observe(call, gateway, asked)

    async def _observe(self, call: Call, gateway: int, asked: requests.Request) -> ObservedCall:
        sent = self._clock()
        seen = ObservedCall(call.number, call.kind, "", CallEnd.LOST, 0.0, sent)
        try:
            response = await self._ask(gateway, asked)
        except NoAnswer as error:
            seen.end, seen.text = CallEnd.SILENT, str(error)
        except ConnectionLost as error:
            seen.text = str(error)
        else:
            _read(seen, response)
        seen.at = self._clock()
        return seen

    async def _insist(self, call: Call, gateway: int) -> None:
        """A caller with a key: retries on the next gateway until it has a result."""
        end = self._clock() + KEEP_TRYING
        pause = random.Random(call.number * 31 + gateway)  # noqa: S311
        while True:
            seen = await self._post(call, gateway, idempotency_key=f"{self._names.prefix}-{call.number}")
            self._history.seen.append(seen)
            if seen.end is not CallEnd.LOST and seen.status not in AGAIN:
                return
            if self._clock() > end:
                self._history.seen.append(
                    ObservedCall(call.number, call.kind, seen.ref, CallEnd.OPEN, self._clock(), seen.sent)
                )
                return
            gateway += 1
            await asyncio.sleep(pause.uniform(0.05, 0.3))

    async def _submit(self, call: Call) -> None:
        seen = await self._post(call, call.gateway, wait=False)
        if seen.status != 202:
            self._history.seen.append(seen)
            return
        location, cancelled_at = seen.text, 0.0
        if call.kind is CallKind.CANCELLED:
            await asyncio.sleep(call.limit)
            cancelled_at = await self._cancel(call, location)
        last = await self._poll(call, location)
        last.ref, last.sent, last.accepted, last.cancelled_at = seen.ref, seen.sent, True, cancelled_at
        self._history.seen.append(last)

    async def _cancel(self, call: Call, location: str) -> float:
        """When the fleet confirmed the cancellation; 0 if the call was already finished, or no gateway answered."""
        for attempt in range(20):
            try:
                response = await self._ask(call.gateway + attempt, requests.Request("DELETE", location, {}))
            except (ConnectionLost, NoAnswer):
                response = None
            if response is not None and response.status == 200:
                return self._clock() if response.json().get("state") == "cancelled" else 0.0
            await asyncio.sleep(0.2)
        return 0.0

    async def _poll(self, call: Call, location: str) -> ObservedCall:
        """Poll one gateway after another until the call has a result."""
        end, gateway = self._clock() + KEEP_TRYING, call.gateway
        while self._clock() < end:
            gateway += 1
            asked = requests.Request("GET", f"{location}?wait_s=2", {})
            seen = await self._observe(call, gateway, asked)
            known = seen.end is CallEnd.ANSWER or (seen.end is CallEnd.ERROR and not self._ask_again(seen))
            if known:
                return seen
            await asyncio.sleep(0.1)
        return ObservedCall(call.number, call.kind, "", CallEnd.OPEN, self._clock(), 0.0)

    @staticmethod
    def _ask_again(seen: ObservedCall) -> bool:
        """Whether to poll again. 499 and 504 can be a handle's result; 503 and 429 are the gateway's own."""
        return seen.status in {202, 429, 503}

    # --- to Kafka -----------------------------------------------------------------------------------------------------

    async def _produce(self, call: Call) -> None:
        topic = self._names.infer_topic(call.model, "1")
        value, headers = garbage(call) if call.kind is CallKind.GARBAGE else record(call)
        fields = dict(headers)
        name = ref(fields["principal"].decode(), fields["id"].decode()) if "id" in fields else ""
        for _ in range(call.copies):
            try:
                at = await self._log.producer.send_and_wait(topic, value, headers=headers)
            except TROUBLE:
                continue
            number = -call.number if call.kind is CallKind.GARBAGE else call.number
            produced = ProducedRecord(number, call.kind, name, topic, at.partition, at.offset, digest(value))
            self._history.produced.append(produced)


def _read(seen: ObservedCall, response: Response) -> None:
    """Fill in the content of a response."""
    seen.status = response.status
    seen.ref = response.headers.get("penstock-request-id", "")
    if seen.status == 202:
        seen.end, seen.text = CallEnd.ERROR, response.headers.get("location", "")
        return
    try:
        requests.check(seen.status, response.headers, response.body)
        outputs: Mapping[str, Any] = requests.result(response.headers, response.body).outputs
        seen.answer, seen.run = (int(outputs[name].reshape(-1)[0]) for name in ("ANSWER", "RUN"))
        seen.end = CallEnd.ANSWER
    except FleetError as error:
        seen.end, seen.text = CallEnd.ERROR, error.message
    except (KeyError, IndexError, ValueError) as error:
        seen.end, seen.text = CallEnd.ERROR, f"not an answer of the model: {error!r}"


def record(call: Call) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A request as any producer may write it: V2 JSON or simple msgpack."""
    values = {"NUMBER": call.number, "MILLIS": call.millis}
    headers = [("id", b"order-%d" % call.number), ("principal", call.principal.encode())]
    if call.number % 2:
        inputs: list[dict[str, Any]] = [
            {"name": k, "datatype": "INT64", "shape": [1, 1], "data": [v]} for k, v in values.items()
        ]
        inputs.append({"name": "PAD", "datatype": "BYTES", "shape": [1, 1], "data": [""]})
        return orjson.dumps({"inputs": inputs}), [*headers, ("content-type", b"application/json")]
    packed: list[dict[str, Any]] = [
        {"name": k, "datatype": "INT64", "shape": [1, 1], "data": v.to_bytes(8, "little")} for k, v in values.items()
    ]
    packed.append({"name": "PAD", "datatype": "BYTES", "shape": [1, 1], "data": bytes(4)})
    return msgpack.packb({"inputs": packed}), headers


def garbage(call: Call) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Bytes that are not a request, the same for every run of a seed; half of them can be answered (principal and id)."""
    chance = random.Random(f"garbage {call.number}")  # noqa: S311
    sort = chance.randrange(3)
    if sort == 0:
        value = chance.randbytes(chance.randint(1, 500))
    elif sort == 1:
        value = record(call)[0][: chance.randint(1, 20)]
    else:
        value = b'{"inputs": ' * chance.randint(1, 50)
    headers = [("principal", b"shop"), ("id", b"garbage-%d" % call.number)] if call.number % 2 else []
    return value, headers
