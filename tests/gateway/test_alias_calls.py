"""Aliases over HTTP: set, called, shadowed and rolled back."""

from __future__ import annotations

import asyncio
import collections
from typing import Any

import numpy as np
import pytest

from protocol.errors import Code
from protocol.messages import Failure, InferRequest, ModelState
from protocol.tensors import Tensor, from_array
from tests.gateway.fleet import ADD_SUB, NAMES, Running, Site, Worker, add_sub, until

ALIASES = "/v2/repository/models/add_sub/aliases"


class Wrong(Worker):
    """Answers with numbers that are off."""

    off = np.float32(0.0)

    def _outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        return tuple(from_array(each.name, each.array() + self.off) for each in super()._outputs(request))


async def shadow_worker(fleet: Site, version: str, off: float) -> Wrong:
    """A worker of a version's batch lane."""
    worker = Wrong(await fleet.transport(), ADD_SUB, version, name=f"shadow{version}")
    worker.off = np.float32(off)
    await worker.announce()
    worker.topic = NAMES.batch_topic("add_sub", version)
    await (await fleet.transport()).bus.ensure_topic(worker.topic, 4)
    await worker.start()
    fleet.stack.push_async_callback(worker.stop)
    return worker


async def two_versions(fleet: Site, **settings: Any) -> tuple[Running, Worker, Worker]:
    third, fourth = await fleet.worker(version="3", name="w3"), await fleet.worker(version="4", name="w4")
    return await fleet.gateway(**settings), third, fourth


async def put(gateway: Running, alias: str, document: Any) -> Any:
    answer = await gateway.client.put(f"{gateway.url}{ALIASES}{alias}", json=document)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def version_of(gateway: Running, model: str, **headers: str) -> str:
    answer = await gateway.infer(add_sub(), model, **headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


async def test_an_alias_is_set_called_switched_and_rolled_back(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)
    assert (await gateway.infer(add_sub(), "add_sub@prod")).status_code == 404

    first = await put(gateway, "/prod", {"versions": {"3": 1}})
    assert first["aliases"] == {"prod": {"versions": {"3": 1}}}
    assert await version_of(gateway, "add_sub@prod") == "3"
    assert await version_of(gateway, "add_sub%40prod") == "3"
    assert await version_of(gateway, "add_sub") == "4"

    second = await put(gateway, "/prod", {"versions": {"4": 1}})
    assert second["previous"] == first["aliases"]
    assert second["generation"] > first["generation"]
    assert await version_of(gateway, "add_sub@prod") == "4"

    rolled = (await gateway.post(f"{ALIASES}/rollback")).json()
    assert rolled["aliases"] == first["aliases"]
    assert await version_of(gateway, "add_sub@prod") == "3"
    assert (await gateway.get(f"{ALIASES}/prod")).json() == {"versions": {"3": 1}}
    assert [each["model_name"] for each in (await gateway.get("/v2/repository/aliases")).json()] == ["add_sub"]


async def test_an_alias_stands_for_its_version_on_every_route(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)
    await put(gateway, "/prod", {"versions": {"3": 1}})

    metadata = (await gateway.get("/v2/models/add_sub@prod")).json()

    assert (metadata["name"], metadata["versions"]) == ("add_sub", ["3"])
    assert (await gateway.get("/v2/models/add_sub@prod/config")).json()["name"] == "add_sub"
    assert (await gateway.get("/v2/models/add_sub@prod/ready")).status_code == 200
    assert [each["version"] for each in (await gateway.get("/v2/models/add_sub@prod/stats")).json()["model_stats"]] == [
        "3"
    ]
    assert (await gateway.get("/v2/models/add_sub@beta")).status_code == 404
    assert (await gateway.get("/v2/models/add_sub@prod/versions/3")).status_code == 400


async def test_the_default_alias_takes_the_calls_without_a_version(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)

    await put(gateway, "", {"default": {"versions": {"3": 1}}, "next": {"versions": {"4": 1}}})

    assert await version_of(gateway, "add_sub") == "3"
    assert await version_of(gateway, "add_sub@next") == "4"
    deleted = await gateway.delete(f"{ALIASES}/default")
    assert list(deleted.json()["aliases"]) == ["next"]
    assert await version_of(gateway, "add_sub") == "4"


async def test_a_canary_gets_its_part_and_a_key_keeps_its_version(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)
    await put(gateway, "/prod", {"versions": {"3": 80, "4": 20}})

    counted = collections.Counter([await version_of(gateway, "add_sub@prod") for _ in range(200)])
    keys = {n: await version_of(gateway, "add_sub@prod", idempotency_key=f"k{n}") for n in range(40)}
    again = {n: await version_of(gateway, "add_sub@prod", idempotency_key=f"k{n}") for n in range(40)}

    assert 15 <= counted["4"] <= 70
    assert again == keys
    assert set(keys.values()) == {"3", "4"}


async def test_a_key_in_flight_stays_with_its_version_across_a_switch(fleet: Site) -> None:
    gateway, third, fourth = await two_versions(fleet, claim_lease=0.1, offsets_max_age=0.0)
    other = await fleet.gateway(claim_lease=0.1, offsets_max_age=0.0)
    await put(gateway, "/prod", {"versions": {"4": 1}})
    for _ in range(12):  # version 4 has committed more than version 3 in every partition
        await version_of(gateway, "add_sub@prod")
    third.open.clear()
    await put(gateway, "/prod", {"versions": {"3": 1}})
    first = asyncio.ensure_future(version_of(gateway, "add_sub@prod", idempotency_key="k"))
    await until(lambda: len(gateway.gateway.service.completion.pending) == 1)
    await put(gateway, "/prod", {"versions": {"4": 1}})
    await until(lambda: other.gateway.service.aliases.named("add_sub@prod").route.weights == (("4", 1),))

    ran = len(fourth.ran)
    second = asyncio.ensure_future(version_of(other, "add_sub@prod", idempotency_key="k"))
    await asyncio.sleep(0.5)  # several leases
    third.open.set()

    assert await first == await second == "3"
    assert len(fourth.ran) == ran
    assert len(third.ran) == 1


async def test_every_gateway_sees_a_switch_and_a_new_one_reads_it(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)
    other = await fleet.gateway()

    await put(gateway, "/prod", {"versions": {"3": 1}})
    await until(lambda: other.gateway.service.aliases.named("add_sub@prod") is not None)
    later = await fleet.gateway()

    assert await version_of(other, "add_sub@prod") == await version_of(later, "add_sub@prod") == "3"


async def test_changes_at_two_gateways_at_once_are_all_kept(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)
    other = await fleet.gateway()

    await asyncio.gather(
        *[
            put(at, f"/{name}", {"versions": {"3": 1}})
            for at, name in [(gateway, "a"), (other, "b"), (gateway, "c"), (other, "d")]
        ]
    )

    for at in (gateway, other):
        await until(lambda at=at: set(at.gateway.service.aliases.routes("add_sub")) == {"a", "b", "c", "d"})


@pytest.mark.parametrize(
    ("path", "document", "status", "words"),
    [
        ("/prod", {"versions": {"9": 1}}, 404, "version 9 is not found"),
        ("/prod", {"versions": {"5": 1}}, 503, "cannot name version 5, which is LOADING: load it first"),
        ("/prod", {"versions": {"3": 1}, "shadow": {"version": "5"}}, 503, "cannot name version 5"),
        ("/prod", {"versions": {"3": -1}}, 400, "weight of version 3"),
        ("/pr od", {"versions": {"3": 1}}, 400, "letters, digits"),
        ("/" + "x" * 64, {"versions": {"3": 1}}, 400, "letters, digits"),
        ("", {}, 400, "routes by alias"),
        ("", {f"a{n}": {"versions": {"3": 1}} for n in range(65)}, 400, "at most 64"),
        ("", [], 400, "routes by alias"),
    ],
)
async def test_a_wrong_change_is_refused_and_changes_nothing(
    fleet: Site, path: str, document: Any, status: int, words: str
) -> None:
    gateway, *_ = await two_versions(fleet)
    loading = Worker(await fleet.transport(), ADD_SUB, "5")
    await loading.announce(ModelState.LOADING)
    await until(lambda: len(gateway.gateway.service.catalogue.versions("add_sub")) == 3)

    answer = await gateway.client.put(f"{gateway.url}{ALIASES}{path}", json=document)

    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert (await gateway.get(ALIASES)).json()["aliases"] == {}


async def test_what_is_no_json_or_too_much_is_refused(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)
    for content, status in ((b"{", 400), (b"\xff", 400), (b"[" * 100_000, 413), (b"", 400)):
        answer = await gateway.client.put(f"{gateway.url}{ALIASES}/prod", content=content)
        assert answer.status_code == status, answer.text
    for method, path, status in (
        ("GET", "/v2/repository/models/none/aliases", 404), ("DELETE", f"{ALIASES}/none", 404),
        ("POST", f"{ALIASES}/rollback", 404), ("GET", f"{ALIASES}/none", 404), ("PATCH", f"{ALIASES}/none", 405),
    ):  # fmt: skip
        assert (await gateway.client.request(method, gateway.url + path)).status_code == status


# --- shadows ----------------------------------------------------------------------------------------------------------


def shadowed(gateway: Running, result: str) -> float:
    labels = f'model="add_sub",result="{result}",shadow="4",version="3"'
    return gateway.metric(f"penstock_gateway_shadow_answers_total{{{labels}}}")


@pytest.mark.parametrize(("off", "result"), [(0.0, "equal"), (1e-6, "close"), (0.5, "different")])
async def test_the_answer_of_a_shadow_is_compared_and_never_returned(fleet: Site, off: float, result: str) -> None:
    gateway, *_ = await two_versions(fleet)
    shadow = await shadow_worker(fleet, "4", off)
    await put(gateway, "/prod", {"versions": {"3": 1}, "shadow": {"version": "4"}})

    body = add_sub(0.125, 0.25)
    answers = [(await gateway.infer(body, "add_sub@prod")).json() for _ in range(3)]
    await until(lambda: shadowed(gateway, result) == 3)

    assert {answer["model_version"] for answer in answers} == {"3"}
    assert answers[0]["outputs"][0]["data"][0] == 0.375
    assert len(shadow.ran) == 3
    assert gateway.gateway.service.budgets.batch.used == 0
    kind = 'kind="absolute",le="0.1",model="add_sub",shadow="4",version="3"'
    assert gateway.metric(f"penstock_gateway_shadow_difference_bucket{{{kind}}}") == (0 if off == 0.5 else 3)


async def test_a_shadow_that_fails_or_is_away_changes_nothing_for_callers(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet, default_timeout=1.0)
    shadow = await shadow_worker(fleet, "4", 0.0)
    shadow.fail = Failure(Code.MODEL_FAILED, "broken")
    await put(gateway, "/prod", {"versions": {"3": 1}, "shadow": {"version": "4"}})
    assert await version_of(gateway, "add_sub@prod") == "3"
    await until(lambda: shadowed(gateway, "failed") == 1)

    await shadow.announce(ModelState.UNAVAILABLE)
    await until(lambda: not gateway.gateway.service.catalogue.get("add_sub", "4").ready)

    assert await version_of(gateway, "add_sub@prod") == "3"
    await until(lambda: shadowed(gateway, "dropped") == 1)


async def test_copies_are_bounded_and_the_rest_is_dropped(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet, max_queued_calls=16)
    shadow = await shadow_worker(fleet, "4", 0.0)
    shadow.open.clear()
    await put(gateway, "/prod", {"versions": {"3": 1}, "shadow": {"version": "4"}})

    versions = [await version_of(gateway, "add_sub@prod") for _ in range(20)]

    assert versions == ["3"] * 20
    await until(lambda: shadowed(gateway, "dropped") >= 10)
    shadow.open.set()
    await until(lambda: shadowed(gateway, "equal") + shadowed(gateway, "dropped") == 20)
    assert gateway.gateway.service.shadows.waiting == 0
    assert gateway.gateway.service.budgets.batch.used == 0


async def test_only_the_share_of_the_calls_is_copied(fleet: Site) -> None:
    gateway, *_ = await two_versions(fleet)
    shadow = await shadow_worker(fleet, "4", 0.0)
    await put(gateway, "/prod", {"versions": {"3": 1}, "shadow": {"version": "4", "share": 0.25}})

    for _ in range(100):
        await version_of(gateway, "add_sub@prod")
    await until(lambda: gateway.gateway.service.shadows.waiting == 0)

    assert 8 <= len(shadow.ran) <= 45
