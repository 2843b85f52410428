"""The pure parts of a gateway of several processes, and the channel between them."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.server_settings.log import LogSettings
from gateway.settings import GatewaySettings
from gateway.shared_memory.regions import Regions
from penstock.processes import channel as channels
from penstock.processes.channel import Channel, Kept, ProcessChannel
from penstock.processes.limits import SHARED, settings_of, share
from penstock.processes.metrics import SumCollector, collected
from penstock.processes.ports import reserved
from penstock.processes.sharing import Sharing
from penstock.processes.starting import fleet_settings, gateway_settings, names, start_message
from penstock.processes.sums import Family, Sample, Sums, families_of, plain
from protocol.errors import ConfigError
from protocol.frames import pack, unpack
from protocol.transport.settings import TransportSettings


@given(st.integers(0, 10**12), st.integers(1, 64))
def test_the_parts_of_a_limit_add_up_to_it(total: int, processes: int) -> None:
    parts = [share(total, processes, number) for number in range(processes)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


def test_the_processes_settings_add_up_to_the_gateways() -> None:
    whole = GatewaySettings(max_queued_calls=10, max_queued_calls_per_model=7, json_processes=2, gateway="g")
    parts = [settings_of(whole, 3, number) for number in range(3)]

    assert [part.max_queued_calls for part in parts] == [4, 3, 3]
    assert [part.max_queued_calls_per_model for part in parts] == [3, 2, 2]
    assert [part.json_processes for part in parts] == [1, 1, 1]
    assert sum(part.max_queued_bytes for part in parts) == whole.max_queued_bytes
    assert [part.gateway for part in parts] == ["g-0", "g-1", "g-2"]
    assert all(part.metrics_port is None and part.shared_ports for part in parts)
    same = {field.name for field in dataclasses.fields(whole)} - {*SHARED, "gateway", "metrics_port", "shared_ports"}
    assert all(getattr(part, name) == getattr(whole, name) for part in parts for name in same)
    assert settings_of(dataclasses.replace(whole, gateway="", max_queued_calls_per_model=0), 2, 0).gateway == ""


def test_a_limit_that_cannot_be_divided_is_named() -> None:
    with pytest.raises(ConfigError, match="max_long_polls is 2; it is divided among 3 processes"):
        settings_of(GatewaySettings(max_long_polls=2), 3, 2)


def family(value: float, name: str = "calls", kind: str = "counter", code: str = "OK") -> Family:
    suffix = "_total" if kind == "counter" else ""
    return Family(name, "Calls.", kind, (Sample(name + suffix, (("code", code),), value),))


def test_metrics_survive_the_way_to_the_parent() -> None:
    families = [family(3), family(2.5, "held", "gauge")]
    assert families_of(unpack(pack(plain(families)))) == families


def test_counters_are_added_and_stay_after_a_death_while_gauges_go() -> None:
    sums = Sums()
    sums.update(0, [family(3), family(5, "held", "gauge")])
    sums.update(1, [family(4), family(6, "held", "gauge"), family(1, code="LATE")])
    both = [family(7), family(11, "held", "gauge")]
    both[0] = both[0]._replace(samples=(*both[0].samples, Sample("calls_total", (("code", "LATE"),), 1)))
    assert sums.families() == both

    sums.retire(1)
    assert {each.name: each.samples for each in sums.families()}["held"] == family(5, "held", "gauge").samples
    assert sums.families()[0].samples == both[0].samples
    sums.update(1, [family(1)])
    sums.retire(1)
    sums.retire(1)
    assert sums.families()[0].samples[0].value == 8


@pytest.mark.parametrize("kind", ["unknown", "gauge", "histogram"])
def test_the_fleets_totals_are_not_added_and_not_kept_of_a_dead_process(kind: str) -> None:
    sums = Sums()
    sums.update(0, [family(7, "nv_inference_count", kind)])
    sums.update(1, [family(9, "nv_inference_count", kind)])
    assert [each.samples[0].value for each in sums.families()] == [9]
    sums.retire(1)
    assert [each.samples[0].value for each in sums.families()] == [7]


def test_what_every_process_says_of_the_fleet_is_not_added() -> None:
    sums = Sums()
    for process, ready in enumerate((1.0, 0.0, 1.0)):
        sums.update(process, [family(ready, "penstock_gateway_ready", "gauge")])
    assert sums.families() == [family(1, "penstock_gateway_ready", "gauge")]


@given(
    st.lists(
        st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 9)), st.tuples(st.integers(0, 2), st.none())), max_size=40
    )
)
def test_no_counter_goes_back_whatever_dies(events: list[tuple[int, int | None]]) -> None:
    sums, counts, shown, dead = Sums(), [0, 0, 0], 0.0, 0
    for process, more in events:
        if more is None:
            sums.retire(process)
            dead += counts[process]
            counts[process] = 0
        else:
            counts[process] += more
            sums.update(process, [family(counts[process], "penstock_gateway_requests")])
        now = sum(each.value for each in (sums.families() or [family(0)])[0].samples)
        assert now == dead + sum(counts) >= shown
        assert now == sum(sums.answers(number) for number in range(3))
        shown = now


def test_the_sum_of_one_process_reads_as_the_process_itself() -> None:
    registry, parent = CollectorRegistry(), CollectorRegistry()
    Counter("seen", "Things.", ["kind"], registry=registry).labels("a\n").inc(3)
    Gauge("held", "Bytes.", registry=registry).set(2)
    Histogram("waited", "Seconds.", registry=registry, buckets=(1, 2)).observe(1.5)
    sums = SumCollector(parent, 1)
    sums.sums.update(0, families_of(unpack(pack(plain(collected(registry))))))
    text = generate_latest(parent)
    assert text.startswith(generate_latest(registry))
    assert b'penstock_gateway_process_answers_total{process="0"} 0.0' in text


def test_settings_survive_the_way_to_a_child() -> None:
    gateway = GatewaySettings(api_key="k", allowed_hosts=("a", "b"), http_port=0)
    fleet = TransportSettings(kafka="k:1", redis="redis://r", prefix="p", kafka_security={"security_protocol": "SSL"})
    message = unpack(pack(start_message(gateway, fleet, ("json", "info"))))
    assert (gateway_settings(message), fleet_settings(message)) == (gateway, fleet)
    assert names(message) == fleet.names
    assert tuple(message["logs"]) == ("json", "info")


def test_reserved_ports_are_real_and_refuse_other_gateways() -> None:
    settings, held = reserved(GatewaySettings(http_port=0))
    try:
        assert settings.http_port > 0
        with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match="--http-port"):
            reserved(GatewaySettings(http_port=other.getsockname()[1]))
    finally:
        for each in held:
            each.close()


async def test_messages_arrive_whole_and_in_order_and_the_end_is_told() -> None:
    left, right = socket.socketpair()
    got: list[tuple[str, object]] = []
    ended = asyncio.Event()
    sender = Channel(lambda *_: None)
    receiver = Channel(lambda kind, value: got.append((kind, value)), ended.set)
    await sender.open(left)
    await receiver.open(right)
    for number in range(100):
        sender.send("n", [number, b"x" * 10_000])
    sender.close()
    await asyncio.wait_for(ended.wait(), 10)
    assert got == [("n", [number, b"x" * 10_000]) for number in range(100)]
    receiver.send("n")  # the other end is gone: nothing happens
    receiver.close()


def test_a_listener_gets_what_is_known_first() -> None:
    got: list[tuple[str, bytes]] = []
    siblings = ProcessChannel(lambda *_: None)
    siblings.received("a", b"1")
    siblings.received("b", b"2")
    siblings.received("b", b"")
    siblings.on_message(lambda key, value: got.append((key, value)))
    siblings.received("a", b"")
    assert got == [("a", b"1"), ("a", b"")]


class Shared:
    """The parts of a service that processes share."""

    def __init__(self, folder: Path) -> None:
        self.regions = Regions(True, folder)
        self.log_settings = LogSettings()
        self.levels: list[object] = []
        self.log_settings.on_change = self.levels.append


def test_regions_and_log_settings_reach_all_processes_also_later_ones(tmp_path: Path) -> None:
    (tmp_path / "seg").write_bytes(bytes(64))
    channels: list[ProcessChannel] = []
    kept = Kept()

    def relay(sender: int) -> Callable[[str, object], None]:
        def send(_: str, value: object) -> None:
            key, data = value  # type: ignore[misc]
            kept.take(key, data)
            for number, other in enumerate(channels):
                if number != sender:
                    other.received(key, data)

        return send

    def join() -> Shared:
        shared = Shared(tmp_path)
        channels.append(ProcessChannel(relay(len(channels))))
        for key, value in kept.values.items():
            channels[-1].received(key, value)
        Sharing(shared, channels[-1])  # type: ignore[arg-type]
        return shared

    first, second = join(), join()
    first.regions.register("a", "/seg", 0, 16)
    second.regions.register("b", "/seg", 16, 16)
    first.log_settings.update({"log_verbose_level": 1})
    third = join()
    for each in (first, second, third):
        assert [region.name for region in each.regions.status()] == ["a", "b"]
        assert each.log_settings.get() == first.log_settings.get()
    assert len(second.levels) == len(third.levels) == 1
    third.regions.unregister("a")
    for each in (first, second, third):
        assert [region.name for region in each.regions.status()] == ["b"]
        each.regions.replace([])


def test_what_is_published_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_KEYS", 2)
    kept = Kept()
    assert [kept.take(key, b"1") for key in ("a", "b", "c")] == [True, True, False]
    assert kept.take("a", b"")
    assert kept.take("c", b"2")
    assert kept.values == {"b": b"1", "c": b"2"}
    with pytest.raises(ValueError, match="at most"):
        ProcessChannel(lambda *_: None).publish("a", bytes(channels.MAX_VALUE + 1))


def test_the_parent_imports_no_framework() -> None:
    code = "import penstock.processes.parent, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"starlette", "uvicorn", "httptools", "grpc", "aiokafka", "redis", "onnxruntime", "torch"}
    assert heavy.isdisjoint(loaded)
