"""The OpenAPI document: it is valid, has every route, and what it says of bodies is so. `tests/bad_input` calls a fleet by it."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest

from gateway.rest.openapi import document
from tests.gateway.fleet import ADD_SUB, ANY, Running, Site, add_sub

IMPLIED = {"HEAD"}


def walk(value: Any) -> list[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        return [value, *[found for item in value.values() for found in walk(item)]]
    return [found for item in value for found in walk(item)] if isinstance(value, list) else []


def test_every_reference_leads_somewhere() -> None:
    whole = document("1")
    references = {found["$ref"] for found in walk(whole) if isinstance(found.get("$ref"), str)}
    assert len(references) > 30
    for reference in references:
        place: Any = whole
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def test_every_schema_is_one() -> None:
    for name, schema in document("1")["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert name


async def test_it_has_the_routes_of_the_application(fleet: Site) -> None:
    gateway = await fleet.gateway()
    routes = gateway.gateway._http.routes
    served: dict[str, set[str]] = {}
    for path, methods in routes.paths:
        served.setdefault(re.sub(r":path\}", "}", path), set()).update(methods - IMPLIED)

    said = {
        path: {method.upper() for method in operations if method != "parameters"}
        for path, operations in document("1")["paths"].items()
    }

    assert said == served


async def test_it_is_served(fleet: Site) -> None:
    gateway = await fleet.gateway()
    version = (await gateway.get("/v2")).json()["version"]
    assert (await gateway.get("/openapi.json")).json() == document(version)


@pytest.fixture
async def gateway(fleet: Site) -> Running:
    await fleet.worker(ADD_SUB)
    await fleet.worker(ANY, name="w2")
    return await fleet.gateway(allow_shared_memory=True)


@pytest.mark.parametrize(
    ("method", "path", "body", "schema"),
    [
        ("GET", "/v2", None, "ServerMetadata"), ("GET", "/v2/models/add_sub", None, "ModelMetadata"),
        ("GET", "/v2/models/add_sub/config", None, "ModelConfig"), ("GET", "/v2/models/stats", None, "ModelStatistics"),
        ("POST", "/v2/models/add_sub/infer", add_sub(), "InferResponse"),
        ("POST", "/v2/models/any/generate", {"IN": [1, 2]}, "GenerateResponse"),
        ("POST", "/v2/repository/index", {}, "RepositoryIndex"), ("GET", "/v2/trace/setting", None, "TraceSettings"),
        ("POST", "/v2/logging", {}, "LogSettings"), ("GET", "/v2/systemsharedmemory/status", None, "SystemRegions"),
        ("GET", "/v2/nothing", None, "Error"), ("DELETE", "/v2", None, "Error"),
    ],
)  # fmt: skip
async def test_answers_are_as_described(gateway: Running, method: str, path: str, body: Any, schema: str) -> None:
    answer = await gateway.client.request(method, gateway.url + path, json=body)
    whole = document("1")

    jsonschema.validate(answer.json(), {**whole["components"]["schemas"][schema], "components": whole["components"]})
