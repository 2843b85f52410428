import signal

import pytest

from protocol.dead_letter import (
    MAX_BATCH_IDS,
    MAX_ERROR,
    DeadLetter,
    DeadReason,
    class_name,
    encode_evidence,
    signal_name,
)
from protocol.errors import CodecError, ModelFailed
from protocol.ports import Record
from workers.failures.bisection import Cause
from workers.failures.classify import cause_of
from workers.instances.job import InstanceDied, ModelRaised

RECORD = Record("penstock.infer.m.1", 2, 17, 1700000000.1234, b"value", [("id", b"x")], b"key")


def test_every_header_of_a_letter() -> None:
    letter = DeadLetter(RECORD, DeadReason.HUNG, "it hung", "workers.execution.InstanceDied", 9, 3, ["a", "b"])
    assert encode_evidence(letter, "w1", "sha") == [
        ("dead-reason", "hung"),
        ("dead-error", "it hung"),
        ("dead-signal", "SIGKILL"),
        ("dead-attempts", "3"),
        ("dead-worker", "w1"),
        ("dead-model-digest", "sha"),
        ("dead-batch", "a,b"),
        ("dead-topic", "penstock.infer.m.1"),
        ("dead-partition", "2"),
        ("dead-offset", "17"),
        ("dead-timestamp", "1700000000123"),
        ("__connect.errors.topic", "penstock.infer.m.1"),
        ("__connect.errors.partition", "2"),
        ("__connect.errors.offset", "17"),
        ("__connect.errors.stage", "TASK_PUT"),
        ("__connect.errors.exception.class.name", "workers.execution.InstanceDied"),
        ("__connect.errors.exception.message", "it hung"),
    ]


def test_an_error_is_cut_between_characters_and_only_so_many_batch_ids_are_named() -> None:
    letter = DeadLetter(RECORD, DeadReason.POISON, "é" * 5000, "", None, 0, [f"m{n}" for n in range(100)])
    evidence = dict(encode_evidence(letter, "w", ""))
    assert evidence["dead-error"] == "é" * (MAX_ERROR // 2)
    assert evidence["dead-batch"].split(",") == [f"m{n}" for n in range(MAX_BATCH_IDS)]
    assert "dead-signal" not in evidence


def test_each_reason_has_a_stage_of_kafka_connect() -> None:
    stages = {reason: dict(encode_evidence(DeadLetter(RECORD, reason, "", ""), "w", "")) for reason in DeadReason}
    assert {r.value: e["__connect.errors.stage"] for r, e in stages.items()} == {
        "undecodable": "VALUE_CONVERTER",
        "poison": "TASK_PUT",
        "hung": "TASK_PUT",
        "attempts": "TASK_PUT",
        "defect": "TASK_PUT",
        "lost": "KAFKA_CONSUME",
    }


def test_signals_and_classes_have_names() -> None:
    assert signal_name(int(signal.SIGSEGV)) == "SIGSEGV"
    assert signal_name(250) == "250"
    assert class_name(CodecError("x")) == "protocol.errors.CodecError"


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


class _ArrayMemoryError(MemoryError):
    """As NumPy calls its own."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (InstanceDied("it died", signal=11), Cause.CRASH),
        (InstanceDied("it died", hung=True), Cause.HANG),
        (InstanceDied("out of memory"), Cause.CRASH),
        (MemoryError(), Cause.MEMORY),
        (_ArrayMemoryError(), Cause.MEMORY),
        (OutOfMemoryError("CUDA"), Cause.MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), Cause.MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), Cause.MEMORY),
        (RuntimeError("Failed to allocate memory for requested buffer of size 4294967296"), Cause.MEMORY),
        (ModelRaised("Unable to allocate 3 TiB", ("_ArrayMemoryError", "MemoryError", "Exception")), Cause.MEMORY),
        (ModelRaised("AcceleratorError: CUDA error: device-side assert triggered", ("AcceleratorError",)), Cause.CRASH),
        (ModelFailed("it gave 3 answers to 4 requests"), Cause.FAILED),
        (ValueError("no"), Cause.FAILED),
        (SystemExit(1), Cause.FAILED),
    ],
)
def test_what_an_error_says_of_its_batch(error: BaseException, cause: Cause) -> None:
    assert cause_of(error) is cause
