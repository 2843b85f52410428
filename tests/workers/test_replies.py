from protocol.codec import decode_reply
from protocol.errors import RETRYABLE, Code
from protocol.frames import MAX_RECORD
from protocol.messages import Failure, InferRequest
from protocol.tensors import Tensor
from workers.backends.base import Outcome
from workers.batching.types import Batch, Release
from workers.instances.job import Entry, Job
from workers.results.replies import Replies


def entry(name: str = "r") -> Entry:
    request = InferRequest(name, "m", "7", (), label="mine", reply_to="channel", accepted=1.0, published=2.0)
    return Entry(name, 2, "", request, 4.0, fetched=3.0, attempt=5)


def job(*entries: Entry) -> Job:
    made = Job(Batch(list(entries), 2 * len(entries), Release.DELAY, 5.0, 0), list(entries), None)  # type: ignore[arg-type]
    made.compute_start, made.compute_end = 6.0, 7.0
    return made


def test_an_answer_carries_its_times_and_its_batch() -> None:
    first, second = entry("a"), entry("b")
    outcomes: list[Outcome] = [(Tensor("Y", "INT8", (1,), b"\x01"),), Failure(Code.MODEL_FAILED, "no")]
    good, bad = Replies("w", 300.0, "0123456789abcdef").of_batch(job(first, second), outcomes, 8.0)
    reply = decode_reply(good.payload)
    t = reply.timing
    assert (t.accepted, t.published, t.fetched, t.enqueued, t.released) == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert (t.compute_start, t.compute_end, t.emitted, t.reason) == (6.0, 7.0, 8.0, "delay")
    assert (t.batch_rows, t.batch_requests, t.attempt, t.worker, t.digest) == (4, 2, 5, "w", "0123456789ab")
    assert (reply.model, reply.version, reply.label, reply.outputs[0].name) == ("m", "7", "mine", "Y")
    assert (good.ref, good.reply_to, good.ttl, good.retriable, good.accepted) == ("a", "channel", 300.0, False, 1.0)
    assert decode_reply(bad.payload).failure == Failure(Code.MODEL_FAILED, "no")


def test_the_answer_of_a_claimed_request_says_so() -> None:
    answers, keyed = Replies("w", 300.0), entry()
    keyed.payload.claimed = True
    assert answers.of_failure(keyed, Failure(Code.INTERNAL, "x"), 8.0).claimed
    assert not answers.of_failure(entry(), Failure(Code.INTERNAL, "x"), 8.0).claimed


def test_only_ends_that_refuse_nothing_let_the_same_key_run_again() -> None:
    answers = Replies("w", 300.0)
    for code in Code:
        answer = answers.of_failure(entry(), Failure(code, "x"), 8.0)
        assert answer.retriable is (code in RETRYABLE)
        assert decode_reply(answer.payload).timing.emitted == 8.0


def test_outputs_that_no_reader_would_take_become_a_failure() -> None:
    huge = Tensor("Y", "INT8", (MAX_RECORD,), bytes(MAX_RECORD))
    (answer,) = Replies("w", 300.0).of_batch(job(entry()), [(huge,)], 8.0)
    reply = decode_reply(answer.payload)
    assert reply.failure is not None
    assert reply.failure.code is Code.TOO_LARGE
    assert str(MAX_RECORD) in reply.failure.message
