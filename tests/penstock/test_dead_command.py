"""`penstock dead` on a data folder, as a user runs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock.cli import group
from penstock.cli.exits import EXIT_CODES
from protocol.errors import Code, FleetError
from protocol.naming import Names
from protocol.ports import Bus, Record
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings
from tests.integration.repositories import write_model
from tests.penstock.dead_letters import evidence, publish_dead_letter, request
from tests.penstock.test_cli import penstock

NAMES = Names("penstock")
INFER = NAMES.infer_topic("m", "1")


def on_the_bus(folder: Path, work: Callable[[Bus], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        bus = open_transport(TransportSettings(data_dir=folder)).bus
        await bus.open()
        try:
            return await work(bus)
        finally:
            await bus.close()

    return asyncio.run(run())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a server with four letters: a crasher, a hanging request, garbage, and a note of lost records."""

    async def work(bus: Bus) -> None:
        await bus.ensure_topic(INFER, 1)
        for number, reason in enumerate(("poison", "hung")):
            value, headers = request(reason, values=[13.0 - number, 1.0], deadline=5.0)
            await publish_dead_letter(bus, NAMES, value, headers, evidence(reason, offset=number, worker=f"w{number}"))
        await publish_dead_letter(bus, NAMES, b"\xc1garbage", (), evidence("undecodable", offset=2))
        await publish_dead_letter(bus, NAMES, b"", (), evidence("lost", offset=3))

    on_the_bus(tmp_path / "data", work)
    return tmp_path / "data"


def dead(folder: Path, *arguments: str, answer: str = "") -> Result:
    return CliRunner(catch_exceptions=True).invoke(
        group,
        ["dead", arguments[0], "--data-dir", str(folder), *arguments[1:]],
        input=answer,
        env={"COLUMNS": "132"},  # lines are cut to the terminal
    )


def as_json(folder: Path, *arguments: str) -> Any:
    done = dead(folder, *arguments, "--json")
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.stdout)


def records(folder: Path) -> list[Record]:
    async def work(bus: Bus) -> list[Record]:
        found: list[Record] = []
        stream = bus.follow(INFER)
        async for some in stream:
            if not some:
                break
            found += some
        await stream.aclose()  # type: ignore[attr-defined]  # every bus has a generator
        return found

    found: list[Record] = on_the_bus(folder, work)
    return found


def test_list_counts_and_filters(folder: Path) -> None:
    text = dead(folder, "list").output
    one = as_json(folder, "list", "--reason", "hung", "--worker", "w1", "--since", "1h")

    assert "4 dead letter(s): 1 poison, 1 hung, 1 undecodable, 1 lost" in text
    assert [letter["id"] for letter in one["letters"]] == ["hung"]
    assert one["counts"] == {"hung": 1}
    assert as_json(folder, "list", "--model", "other")["letters"] == []
    assert as_json(folder, "list", "--since", "2090-01-01")["letters"] == []


def test_show_tells_everything(folder: Path) -> None:
    facts = as_json(folder, "show", "poison")
    garbage = dead(folder, "show", "m/0/2").output

    assert facts["request"]["inputs"][0]["first_values"] == [13.0, 1.0]
    assert (facts["reason"], facts["worker"], facts["source"]["topic"]) == ("poison", "w0", INFER)
    assert "not a request" in garbage
    assert "c1 67 61 72" in garbage


def test_show_says_where_it_looked(folder: Path) -> None:
    done = dead(folder, "show", "nobody")

    assert isinstance(done.exception, FleetError)
    assert "no dead letter 'nobody'; looked at: m" in done.exception.message


def test_redrive_sends_what_was_chosen_once_and_numbers_what_is_sent_again(folder: Path) -> None:
    planned = as_json(folder, "redrive", "--dry-run")
    nothing = records(folder)
    first = as_json(folder, "redrive", "--reason", "poison", "--rate", "0")
    second = dead(folder, "redrive", "--reason", "poison", "--rate", "0").output
    third = dead(folder, "redrive", "--id", "poison", "--again", "--rate", "0").output

    assert [each["id"] for each in planned["redriven"]] == ["poison~r1", "hung~r1", f"{INFER}-0-2-1700000000123~r1"]
    assert "deleted unread" in planned["skipped"][0]["why"]
    assert nothing == []
    (sent,) = first["redriven"]
    assert (sent["url"], sent["stream"]) == ("/v2/requests/poison~r1", "penstock:result:poison~r1")
    assert "was sent again as poison~r1" in second
    assert "sent        poison to" in third
    assert [dict(record.headers)["id"] for record in records(folder)] == [b"poison~r1", b"poison~r2"]
    assert "deadline" not in dict(records(folder)[0].headers)
    assert "[sent again as poison~r2]" in dead(folder, "list").output


def test_many_are_asked_for_first(folder: Path) -> None:
    async def work(bus: Bus) -> None:
        for number in range(11):
            value, headers = request(f"more{number}")
            await publish_dead_letter(bus, NAMES, value, headers, evidence(offset=10 + number))

    on_the_bus(folder, work)

    refused = dead(folder, "redrive", "--rate", "0", answer="n\n")
    before = len(records(folder))
    accepted = dead(folder, "redrive", "--rate", "0", "--yes")

    assert "Send 14 requests again?" in refused.output
    assert (refused.exit_code, before) == (1, 0)
    assert "14 sent again, 0 failed, 1 left out" in accepted.output
    assert len(records(folder)) == 14


def test_reproduce_exits_by_whether_it_happened_again(folder: Path, tmp_path: Path) -> None:
    code = "class Model:\n    inputs = {'X': ('FP32', [-1])}\n    outputs = {'X': ('FP32', [-1])}\n    max_batch_size = 4\n"
    write_model(tmp_path / "bad", "m", code + "    def predict(self, X):\n        raise ValueError(X[0, 0])\n")
    write_model(tmp_path / "good", "m", code + "    def predict(self, X):\n        return {'X': X}\n")

    bad = dead(folder, "reproduce", "poison", "--model-repository", str(tmp_path / "bad"))
    good = dead(folder, "reproduce", "poison", "--model-repository", str(tmp_path / "good"))
    exported = dead(folder, "reproduce", "poison", "--export", str(tmp_path / "case"))
    neither = dead(folder, "reproduce", "poison")
    loss = dead(folder, "reproduce", "m/0/3", "--model-repository", str(tmp_path / "good"))

    assert (bad.exit_code, "failed: ValueError: 13.0" in bad.output) == (0, True)
    assert (good.exit_code, "succeeded" in good.output) == (1, True)
    assert (exported.exit_code, (tmp_path / "case" / "request.bin").is_file()) == (0, True)
    assert "give --model-repository" in str(neither.exception)
    assert "nothing to run" in str(loss.exception)


def test_a_folder_that_no_server_made_is_not_made_into_one(tmp_path: Path) -> None:
    done = dead(tmp_path, "list")

    assert "not the folder of a penstock serve" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_without_a_place_to_look_it_says_where_they_lie() -> None:
    done = CliRunner().invoke(group, ["dead", "list"])

    assert "--kafka HOST:PORT and --redis URL; or in --data-dir" in str(done.exception)


def test_a_fleets_letters_are_listed_and_sent_again(kafka_bootstrap: str, redis_url: str, prefix: str) -> None:
    servers = ("--kafka", kafka_bootstrap, "--redis", redis_url, "--prefix", prefix)
    names = Names(prefix)

    async def prepare() -> None:
        bus = open_transport(TransportSettings(kafka=kafka_bootstrap, redis=redis_url, prefix=prefix)).bus
        await bus.open()
        await bus.ensure_topic(names.infer_topic("m", "1"), 1)
        value, headers = request("r1")
        await publish_dead_letter(bus, names, value, headers, evidence(topic=names.infer_topic("m", "1")))
        await bus.close()

    asyncio.run(prepare())
    listed = penstock("dead", "list", *servers, "--json")
    sent = penstock("dead", "redrive", *servers, "--json")
    after = penstock("dead", "redrive", *servers)
    nothing = penstock("dead", "show", "r2", *servers)

    assert [letter["id"] for letter in json.loads(listed.stdout)["letters"]] == ["r1"], listed.stderr
    assert json.loads(sent.stdout)["redriven"][0]["record"] == f"{names.infer_topic('m', '1')}/0/0", sent.stderr
    assert "0 sent again, 0 failed, 1 left out" in after.stdout
    assert (nothing.returncode, "no dead letter 'r2'" in nothing.stderr) == (EXIT_CODES[Code.NOT_FOUND], True)
