"""docs/operations.md: what it computes follows from the code's constants and from the bytes of its own table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gateway.settings import GatewaySettings
from protocol.codec import encode_request
from protocol.messages import InferRequest
from protocol.tensors import from_array
from protocol.transport.settings import TransportSettings
from workers.serving.batch_topic import FULL
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text().replace("\u00d7", "x")
TRANSPORT, GATEWAY, WORKER = TransportSettings(), GatewaySettings(), WorkerSettings()


def cells(begin: str) -> list[str]:
    """Of the table's row that begins so."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {begin} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_the_bytes_of_a_result_are_those_that_the_architecture_page_has_measured() -> None:
    architecture = " ".join((ROOT / "docs" / "architecture.md").read_text().split())
    plain, trimmed, kept = (
        cells("plain call"),
        cells("plain call, payload trimmed after delivery"),
        cells("keyed or asynchronous call"),
    )

    assert f"{plain[1]} bytes of Redis per plain result and {kept[1]} per claimed one" in architecture
    assert f"{trimmed[1]} once trimmed; with payloads of 250 bytes {plain[2]} and {kept[2]}" in architecture


def test_memory_for_plain_answers_is_rate_times_seconds_times_bytes() -> None:
    plain, trimmed = (number(cells(row)[1]) for row in ("plain call", "plain call, payload trimmed after delivery"))
    for rate in (1_000, 10_000, 50_000):
        _, as_they_are, small = cells(f"{rate:,}")
        assert as_they_are == f"{rate * TRANSPORT.fence_ttl * plain / 1e9:.2f} GB"
        assert small == f"{rate * TRANSPORT.fence_ttl * trimmed / 1e9:.2f} GB"
    kept = number(cells("keyed or asynchronous call")[2])
    assert f"1,000 x 3,600 s x {kept:.0f} B = {1000 * TRANSPORT.result_ttl * kept / 1e9:.2f} GB" in PAGE


def test_a_request_of_four_kilobytes_is_a_record_of_the_size_that_the_page_says() -> None:
    tensor = from_array("X", np.ones((1, 1000), np.float32))
    value, headers = encode_request(
        InferRequest(
            "5f0c9a7e1d2b4c3a9e8f7a6b5c4d3e2f",
            "digits",
            "1",
            (tensor,),
            reply_to="penstock:gateway:0123456789ab",
            deadline=1.7e9,
            accepted=1.7e9,
            published=1.7e9,
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
    )
    size = len(value) + sum(len(name) + len(text) + 2 for name, text in headers)
    said = number(re.findall(r"1,000 x ([\d,]+) B x 86,400 s x 3", PAGE)[0])

    assert abs(size - said) < 50, size
    assert (
        f"= {1000 * said * 86_400 * 3 / 1e12:.1f} TB; with two hours of retention {1000 * said * 7200 * 3 / 1e9:.0f} GB"
        in PAGE
    )
    assert f"here {1000 * said * 60 / 1e6:.0f} MB" in PAGE


def test_members_cost_what_their_intervals_say() -> None:
    requests = 1 / TRANSPORT.heartbeat_interval + 1 / TRANSPORT.fetch_max_wait
    assert (requests, TRANSPORT.heartbeat_interval) == (4, 0.5)
    for members in (100 * 50, 1000 * 4):
        asked = f"{members:,} members, {members * requests:,.0f} requests a second, {members * 2:,} connections"
        assert asked in PAGE
    assert f"{1000 * WORKER.partitions:,} partitions" in PAGE


def test_defaults_and_limits_are_the_codes() -> None:
    assert f"`--partitions` of the first worker, {WORKER.partitions} " in PAGE
    assert f"`--trim-bytes`, {GATEWAY.trim_bytes:,} by default" in PAGE
    assert f"groups of up to\n{GATEWAY.trim_batch:,};" in PAGE
    assert f"`--drain-grace` ({WORKER.drain_grace:.0f} s)" in PAGE
    assert f"`Penstock-Timeout-Ms`, {GATEWAY.default_timeout:.0f} s by\ndefault" in PAGE
    shares = (
        f"from {FULL:.0%} on the batch lane waits, from {GATEWAY.fill_limit:.0%} asynchronous calls are refused, from "
    )
    text = " ".join(PAGE.replace(" %", "%").split())
    assert f"{shares}{GATEWAY.full_limit:.0%} all" in text


def test_the_figures_against_a_direct_server_are_the_readmes() -> None:
    readme = (ROOT / "README.md").read_text()
    rate = re.search(r"best rate/s \| [\d,]+ \|[^|]+\| ([\d,]+) [^|]*\| ([\d,]+) ", readme)
    wait = re.search(r"p50 with one caller, ms \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \| ([\d.]+) ", readme)
    assert rate is not None
    assert wait is not None
    text = " ".join(PAGE.split())

    assert (
        f"waits {wait[3]} ms through Kafka and Redis, {wait[2]} ms through `penstock serve` and {wait[1]} ms with Triton"
        in text
    )
    assert f"answers {rate[2]} requests a second where one process answers {rate[1]}" in text
