"""The reply to the caller: the terminal answer of each entry, with its times and its batch. Pure.

Invariants: a failure can always be encoded; without its label and its times if need be. Nobody changes a reply that was given out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from protocol.codec import encode_reply, size_limit
from protocol.errors import RETRYABLE, Code
from protocol.frames import MAX_RECORD
from protocol.messages import SHOWN_DIGEST, Failure, InferReply, Timing
from protocol.naming import names_topic
from protocol.ports import Payload, Terminal
from protocol.tensors import Tensor
from workers.backends.base import Outcome
from workers.instances.job import Entry, Job


class Replies:
    """Encodes the answers of one worker.

    Args:
        worker: the worker's id.
        ttl: seconds that a plain call's fence outlives its answer.
        topic_ttl: the same for an answer that goes to a topic.
        digest: of the model version's files; answers of batches name it.
        encoded: the store needs bytes; else it gets the replies themselves.
    """

    def __init__(
        self, worker: str, ttl: float, digest: str = "", *, encoded: bool = True, topic_ttl: float = 60.0
    ) -> None:
        self._worker = worker
        self._encoded = encoded
        self._ttl = ttl
        self._topic_ttl = topic_ttl
        self._digest = digest[:SHOWN_DIGEST]

    def of_batch(
        self, job: Job, outcomes: Sequence[Outcome], now: float, entries: Sequence[Entry] | None = None
    ) -> list[Terminal]:
        """One answer per entry of a batch that ran or failed; of all its entries unless `entries` are given.

        Raises:
            Exception: an outcome, or a field of its request, cannot be encoded.
        """
        rows, requests, reason = job.batch.rows, len(job.entries), job.batch.reason.value
        answers = []
        for entry, outcome in zip(job.entries if entries is None else entries, outcomes, strict=True):
            request = entry.payload
            timing = Timing(
                request.accepted, request.published, entry.fetched, entry.enqueued, job.released, job.compute_start,
                job.compute_end, now, reason, rows, requests, entry.attempt, self._worker, self._digest,
            )  # fmt: skip
            answers.append(self._answer(entry, outcome, timing))
        return answers

    def of_failure(self, entry: Entry, failure: Failure, now: float) -> Terminal:
        """The answer to an entry that did not run."""
        request = entry.payload
        timing = Timing(
            request.accepted, request.published, entry.fetched, entry.enqueued, emitted=now, attempt=entry.attempt,
            worker=self._worker,
        )  # fmt: skip
        try:
            return self._answer(entry, failure, timing)
        except Exception:
            return self.bare(entry, failure)

    def of_cached(self, entry: Entry, outputs: Sequence[Tensor], reason: str, now: float) -> Terminal:
        """The answer to an entry whose outputs are in the response cache: it never ran.

        Raises:
            Exception: a field of its request cannot be encoded.
        """
        request = entry.payload
        timing = Timing(
            request.accepted, request.published, entry.fetched, entry.enqueued, emitted=now, reason=reason, attempt=entry.attempt,
            worker=self._worker, digest=self._digest,
        )  # fmt: skip
        return self._answer(entry, tuple(outputs), timing)

    def bare(self, entry: Entry, failure: Failure) -> Terminal:
        """A failure without its label and its times, so that it can always be encoded."""
        plain = Failure(failure.code, failure.message.encode(errors="replace").decode())
        timing = Timing(attempt=entry.attempt, worker=self._worker)
        request = dataclasses.replace(entry.payload, label="", accepted=0.0)
        return self._answer(dataclasses.replace(entry, payload=request), plain, timing)

    def of_record(self, entry: Entry, outcome: Outcome, timing: Timing) -> Terminal:
        """The answer to an entry whose rows ran in several batches.

        Raises:
            Exception: the outcome, or a field of the request, cannot be encoded.
        """
        return self._answer(entry, outcome, timing)

    def _answer(self, entry: Entry, outcome: Outcome, timing: Timing) -> Terminal:
        request = entry.payload
        reply = InferReply(request.model, request.version, request.label)
        reply.timing = timing
        retriable = False
        if isinstance(outcome, Failure):
            reply.failure = outcome
            retriable = outcome.code in RETRYABLE
        else:
            reply.outputs = outcome
        payload, accepted, claimed = reply if entry.sliced else self._payload(reply), request.accepted, request.claimed
        if names_topic(request.reply_to):
            return Terminal(entry.ref, payload, "", self._topic_ttl, retriable, accepted, claimed, to_topic=True)
        return Terminal(entry.ref, payload, request.reply_to, self._ttl, retriable, accepted, claimed)

    def _payload(self, reply: InferReply) -> Payload:
        """The reply as the store takes it; a failure instead if it is over `MAX_RECORD`."""
        if not self._encoded and size_limit(reply.outputs, reply.label, reply.parameters) <= MAX_RECORD:
            return reply
        payload = encode_reply(reply)
        if len(payload) > MAX_RECORD:
            text = f"the outputs have {len(payload)} bytes; an answer may have {MAX_RECORD}"
            reply.failure, reply.outputs = Failure(Code.TOO_LARGE, text), ()
            payload = encode_reply(reply)
        return payload
