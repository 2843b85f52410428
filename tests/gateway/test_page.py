"""What `/`, the page's files, `/metrics` and `/v2/fleet/models` answer."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest

from gateway.page.files import page_files
from gateway.page.policy import CONTENT_SECURITY_POLICY
from gateway.rest.openapi import document
from protocol.messages import ModelState
from tests.gateway.fleet import ADD_SUB, ANY, Running, Site, add_sub

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = sorted(page_files())


async def get(gateway: Running, path: str, **headers: str) -> httpx.Response:
    return await gateway.client.get(gateway.url + path, headers=headers)


async def test_a_browser_gets_the_page_and_nobody_else(fleet: Site) -> None:
    gateway = await fleet.gateway()
    page = await get(gateway, "/", **BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Penstock" in page.text
    for accept in ("*/*", "application/json", ""):
        other = await get(gateway, "/", accept=accept)
        assert (other.status_code, other.json()) == (404, {"error": "Not Found"})  # as Triton
        assert other.headers["vary"] == page.headers["vary"] == "Accept"  # no cache mixes them up
    posted = await gateway.client.post(gateway.url + "/", headers=BROWSER)
    assert posted.status_code == 404


@pytest.mark.parametrize("path", FILES)
async def test_every_file_has_the_policy_and_is_sent_once(fleet: Site, path: str) -> None:
    gateway = await fleet.gateway()
    first = await get(gateway, path, **BROWSER)
    headers = first.headers
    assert first.status_code == 200
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "http://" not in first.text.replace("http://www.w3.org/2000/svg", "").replace("`http://${", "")
    assert "https://" not in first.text

    again = await get(gateway, path, **BROWSER, **{"if-none-match": f'"other", W/{headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", headers["etag"])
    head = await gateway.client.head(gateway.url + path, headers=BROWSER)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", headers["content-length"])


def test_the_policy_allows_nothing_from_elsewhere_and_nothing_inline() -> None:
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert {rules[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert (rules["require-trusted-types-for"], rules["trusted-types"]) == ("'script'", "'none'")
    assert {rules[name] for name in ("form-action", "frame-ancestors", "base-uri")} == {"'none'"}


@pytest.mark.parametrize(
    "path", ["/page/", "/page/index.html", "/page/../main.js", "/page/..%2fpolicy.py", "/page/__init__.py", "/page"]
)
async def test_no_path_names_another_file(fleet: Site, path: str) -> None:
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/html\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"404"
    writer.close()


async def test_without_the_page_everything_is_as_in_triton(fleet: Site) -> None:
    gateway = await fleet.gateway(page=False)
    for path in FILES:
        answer = await get(gateway, path, **BROWSER)
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    assert (await get(gateway, "/v2/fleet/models")).status_code == 200


async def test_metrics_point_to_their_port(fleet: Site) -> None:
    gateway = await fleet.gateway(metrics_port=0)
    port = gateway.gateway.metrics_port
    answer = await get(gateway, "/metrics")
    assert answer.status_code == 404
    assert answer.json()["error"].startswith(
        f"metrics are not on this port; they are at http://127.0.0.1:{port}/metrics"
    )
    assert (await get(gateway, "/v2/fleet/models")).json()["metrics"] == f"127.0.0.1:{port}"


async def test_metrics_that_are_not_served_are_said_to_be(fleet: Site) -> None:
    gateway = await fleet.gateway(metrics_port=None)
    answer = await get(gateway, "/metrics")
    assert answer.status_code == 404
    assert "serves no metrics" in answer.json()["error"]
    assert (await get(gateway, "/v2/fleet/models")).json()["metrics"] == ""


async def test_the_overview_has_models_figures_and_workers(fleet: Site) -> None:
    await fleet.worker(ADD_SUB)
    failed = await fleet.worker({**ANY, "name": "gone"}, name="w2")
    await failed.announce(ModelState.UNAVAILABLE, "its file is missing")
    gateway = await fleet.gateway()
    assert (await gateway.post("/v2/models/add_sub/infer", json=add_sub())).status_code == 200
    known = (await get(gateway, "/v2/fleet/models")).json()

    whole = document("1")
    jsonschema.validate(known, {**whole["components"]["schemas"]["FleetModels"], "components": whole["components"]})
    by_name: dict[str, Any] = {model["name"]: model for model in known["models"]}
    assert (by_name["gone"]["state"], by_name["gone"]["reason"]) == ("UNAVAILABLE", "its file is missing")
    served = by_name["add_sub"]
    assert (served["state"], served["workers"], served["max_batch_size"]) == ("READY", 1, 8)
    assert served["inputs"][0] == {"name": "INPUT0", "datatype": "FP32", "shape": [-1, 16], "optional": False}
    assert served["outputs"][1] == {"name": "OUTPUT1", "datatype": "FP32", "shape": [-1, 16]}
    assert {worker["worker"] for worker in known["workers"]} == {"w1", "w2"}


async def test_the_overview_tells_nothing_that_is_restricted(fleet: Site) -> None:
    gateway = await fleet.gateway(
        http_restricted_api=("metadata:who=me", "statistics:what=figures", "model-repository:which=all")
    )
    headers = {"who": "me", "what": "figures", "which": "all"}
    assert (await get(gateway, "/v2/fleet/models", **headers)).status_code == 200
    for missing in headers:
        answer = await get(
            gateway, "/v2/fleet/models", **{name: value for name, value in headers.items() if name != missing}
        )
        assert (answer.status_code, missing in answer.json()["error"]) == (403, True)
    assert (await get(gateway, "/", **BROWSER)).status_code == 200
