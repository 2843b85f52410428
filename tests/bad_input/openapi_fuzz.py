"""schemathesis calls a one-process fleet by its own OpenAPI document: every status, content type and body is one that it names.

Generating a call takes schemathesis ten milliseconds or more, so each is sent again with other bytes a number of times; those
answers are held against the document's statuses and content types.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import math
import random
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

from loadtest.processes import Meter
from tests.bad_input.http_fuzz import served, until_it_serves

MODELS: Final[dict[str, tuple[Any, Any]]] = {
    "any": ([{"name": "IN", "datatype": "FP32", "shape": [2], "data": [1, 2.5]}], {"IN": [1, 2.5]}),
    "text": ([{"name": "IN", "datatype": "BYTES", "shape": [1], "data": ["a"]}], {"IN": "a"}),
}
"""Models that are there, with inputs that they take, in the bodies of infer and generate calls."""
_AIMED: Final = 0.6
SERVER_ERRORS: Final = frozenset({501, 503, 504})
"""What a server may answer to a request that it has understood; 504 to one whose own deadline has passed."""
SLACK_MIB: Final = 192
_PIECES: Final = (
    b"{",
    b"}",
    b"[]",
    b"null",
    b'"',
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\0",
    b"\xff",
    b",",
    b'"":',
)
_CHECKS: Final = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@dataclasses.dataclass
class Outcome:
    """The results of a run.

    Attributes:
        problems: what was not as the document says, one line each.
        calls: how many were made.
        statuses: the answers by status.
        untried: operations without an answer below 400.
        seconds: how long it took.
        before_mib, after_mib: resident memory of the server's processes.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    calls: int = 0
    statuses: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    untried: set[str] = dataclasses.field(default_factory=set)
    seconds: float = 0.0
    before_mib: float = 0.0
    after_mib: float = 0.0

    def __str__(self) -> str:
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.calls} calls in {self.seconds:.0f} s ({statuses}), memory {self.before_mib:.0f} MiB before, "
            f"{self.after_mib:.0f} after; {len(self.problems)} problems"
        )


def fuzz(number: int, calls: int, changed: int = 3, say: Callable[[str], object] = lambda text: None) -> Outcome:
    """Make at least so many calls, about the same for every operation.

    Args:
        number: seeds what is generated.
        changed: how many times each call is made again with other bytes.
    """
    outcome = Outcome()
    with served("--allow-shared-memory") as (port, _, server), requests.Session() as session:
        asyncio.run(until_it_serves(port, server))
        url = f"http://127.0.0.1:{port}"
        document = httpx.get(f"{url}/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        operations = [result.ok() for result in schema.get_all_operations()]
        meter = Meter({"gateway": server.pid})
        outcome.before_mib = meter.memory_mib()["gateway"]
        began = time.monotonic()
        for place, operation in enumerate(operations):
            outcome.untried.add(operation.label)
            share = (calls - outcome.calls) / (len(operations) - place) / (changed + 1)
            talk = _Talk(
                _responses(document, operation),
                url,
                session,
                outcome,
                changed,
                random.Random(f"{number} {operation.label}"),
            )
            _call(operation, number, math.ceil(share), talk)
            say(f"{place + 1} of {len(operations)} operations, {outcome.calls} calls, {len(outcome.problems)} problems")
        outcome.seconds = time.monotonic() - began
        outcome.after_mib = meter.memory_mib()["gateway"]
        if outcome.after_mib > outcome.before_mib + SLACK_MIB:
            outcome.problems.append(f"memory grew from {outcome.before_mib:.0f} to {outcome.after_mib:.0f} MiB")
        with contextlib.suppress(Exception):
            server.check()
            asyncio.run(until_it_serves(port, server))
            return outcome
        outcome.problems.append("the server does not serve any more")
    return outcome


def _call(operation: Any, number: int, calls: int, talk: _Talk) -> None:
    """Call one operation."""

    @seed(number)
    @settings(
        max_examples=calls, database=None, deadline=None, derandomize=False, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def call(case: Any) -> None:
        talk.say(case)

    call()


@dataclasses.dataclass
class _Talk:
    """Sends the calls of one operation, and judges the answers.

    Attributes:
        said: the documented responses, by status.
        changed: how many times each call is made again with other bytes.
    """

    said: dict[str, Any]
    url: str
    session: requests.Session
    outcome: Outcome
    changed: int
    dice: random.Random

    def say(self, case: Any) -> None:
        label, outcome = case.operation.label, self.outcome
        self._aim(case)
        try:
            answer = case.call(base_url=self.url, session=self.session, timeout=30)
        except Exception as error:
            outcome.problems.append(f"{label}: {type(error).__name__}: {error}"[:500])
            return
        self._count(label, answer.status_code)
        try:
            case.validate_response(answer, checks=_CHECKS, excluded_checks=[not_a_server_error])
        except (FailureGroup, AssertionError) as error:
            shown = "; ".join(map(str, itertools.islice(getattr(error, "exceptions", [error]), 3)))
            outcome.problems.append(f"{label}: {answer.status_code} {shown} to {case.as_curl_command()}"[:1500])
        for _ in range(self.changed):
            self._say_changed(label, answer.request)

    def _aim(self, case: Any) -> None:
        """Let most calls name a model that is there, and some have a body that it takes."""
        dice, named = self.dice, case.path_parameters or {}
        if "model" in named and dice.random() < _AIMED:
            named["model"] = dice.choice(list(MODELS))
        if "version" in named and dice.random() < _AIMED:
            named["version"] = "1"
        bodies = MODELS.get(named.get("model", ""))
        verb = case.operation.path.rpartition("/")[2]
        if bodies and case.media_type == "application/json" and dice.random() < _AIMED:
            if verb == "infer":
                case.body = (
                    {**case.body, "inputs": bodies[0], "outputs": []}
                    if dice.random() < _AIMED
                    else {"inputs": bodies[0]}
                )
            elif verb.startswith("generate"):
                case.body = bodies[1]

    def _say_changed(self, label: str, original: requests.PreparedRequest) -> None:
        request = original.copy()
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        body = _mutated(body, self.dice) if isinstance(body, bytes) else b""
        if request.method != "GET":
            request.body = body
            request.headers["Content-Length"] = str(len(body))
        try:
            answer = self.session.send(request, timeout=30)
        except requests.RequestException as error:
            self.outcome.problems.append(f"{label}: {type(error).__name__} to {request.url} {body[:300]!r}"[:1000])
            return
        self._count(label, answer.status_code)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        allowed = self.said.get(str(answer.status_code))
        if allowed is None or (answer.content and kind not in allowed.get("content", {})):
            text = f"{label}: {answer.status_code} {kind} {answer.text[:200]} to {request.url} {body[:300]!r}"
            self.outcome.problems.append(text[:1500])

    def _count(self, label: str, status: int) -> None:
        outcome = self.outcome
        outcome.calls += 1
        outcome.statuses[status] += 1
        if status < 400:
            outcome.untried.discard(label)
        if status >= 500 and status not in SERVER_ERRORS:
            outcome.problems.append(f"{label}: {status}")


def _mutated(body: bytes, dice: random.Random) -> bytes:
    """The body with a few bytes changed, left out, doubled or cut off."""
    raw = bytearray(body)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(raw) + 1)
        match dice.randrange(5):
            case 0:
                raw[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del raw[at : at + dice.randint(1, 8)]
            case 2:
                raw[at:at] = raw[at : at + dice.randint(1, 32)]
            case 3:
                raw[at:at] = dice.choice(_PIECES)
            case _:
                del raw[at + dice.randrange(64) :]
    return bytes(raw)


def _responses(document: dict[str, Any], operation: Any) -> dict[str, Any]:
    """The documented responses of an operation, by status."""
    said = document["paths"][operation.path][operation.method]["responses"]
    common = document["components"]["responses"]
    return {status: common[status] if "$ref" in response else response for status, response in said.items()}
