"""`penstock topics` on a real broker."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.servers


def topics(kafka: str, prefix: str, *wanted: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    command = [sys.executable, "-m", "penstock", "topics", "--kafka", kafka, "--prefix", prefix]
    flags = [f"--topic={each}" for each in wanted]
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=50, check=False)


def test_it_creates_topics_once_and_says_which_are_too_small(kafka_bootstrap: str, prefix: str) -> None:
    first = topics(kafka_bootstrap, prefix, "digits/1=8", "a.b/2=1")
    again = topics(kafka_bootstrap, prefix, "digits/1=4")
    more = topics(kafka_bootstrap, prefix, "digits/1=9")

    assert (first.returncode, again.returncode, more.returncode) == (0, 0, 1), first.stderr + again.stderr
    assert first.stdout.splitlines() == [
        f"{prefix}.infer.digits.1  8 partitions",
        f"{prefix}.infer.a-2Eb.2  1 partitions",
    ]
    assert again.stdout == f"{prefix}.infer.digits.1  8 partitions\n"
    assert f"kafka-topics.sh --alter --topic {prefix}.infer.digits.1 --partitions 9" in more.stderr


def test_without_a_broker_it_says_so() -> None:
    done = topics("127.0.0.1:1", "p", "digits/1=4")

    assert done.returncode not in {0, 1}
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
