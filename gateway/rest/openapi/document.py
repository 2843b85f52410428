"""The document: routes, parameters, responses. Pure."""

from __future__ import annotations

from typing import Any, Final

from gateway.rest.openapi.schemas import COUNT, SCHEMAS, TEXT, Schema, ref

_JSON: Final = "application/json"
_RAW: Final = "application/octet-stream"
_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_REPOSITORY: Final = "/v2/repository"
_ALIASES: Final = "/v2/repository/models/{model}/aliases"

_ERRORS: Final = {
    400: "The request is wrong: the text says what, where, and what to do.",
    401: "The API key is missing or wrong.",
    403: "A web page or host that may not call this gateway.",
    404: "There is no such route, model, version, region or request.",
    405: "The route takes other methods.",
    408: "The request was not received in time.",
    410: "The answer is no longer kept.",
    413: "The body is too large.",
    422: "The Idempotency-Key was used with another body.",
    429: "Too many calls wait; try again after Retry-After seconds.",
    431: "The headers are too large.",
    499: "The call was cancelled.",
    500: "The model failed, or the gateway has a fault.",
    501: "Understood, but not supported here.",
    503: "A part of the fleet is away, or the gateway is shutting down; try again after Retry-After seconds.",
    504: "The deadline passed before there was an answer.",
}
_ANY: Final = (400, 401, 403, 404, 405, 408, 413, 429, 431, 503)
"""Errors that every route may answer."""
_CALL: Final = (422, 499, 500, 501, 504)
"""Errors that calls may answer besides."""


_SCALING: Final[Schema] = {"anyOf": [ref("FleetScaling"), ref("ModelScaling")]}


def _header(description: str, schema: Schema = TEXT) -> Schema:
    return {"description": description, "schema": schema}


_CALL_HEADERS: Final = {
    "Penstock-Request-Id": _header("The call's id in the fleet."),
    "Penstock-Timing": _header(
        "The stages of the answer's run in microseconds, its batch, and the digest of the model's files (RFC 8941). What is not "
        "known is absent; the header is, if nothing is."
    ),
}
_LENGTH: Final = {"Inference-Header-Content-Length": _header("Bytes of JSON in front of raw tensors.", COUNT)}


def _argument(name: str, description: str, where: str = "path", schema: Schema = TEXT) -> Schema:
    return {"name": name, "in": where, "required": where == "path", "description": description, "schema": schema}


_NAME: Final[Schema] = {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}
_PATH: Final = {
    "model": _argument("model", "The model's name, or model@alias.", schema=_NAME),
    "version": _argument("version", "The model's version.", schema={"type": "string", "pattern": "^[0-9]{1,19}$"}),
    "region": _argument("region", "The region's name.", schema=_NAME),
    "repository": _argument("repository", "Not supported.", schema=_NAME),
    "alias": _argument("alias", "The alias; `default` is that of calls without a version.", schema=_NAME),
    "token": _argument(
        "token", "A request's id, or the handle from its 202.", schema={"type": "string", "minLength": 1}
    ),
}
_CALL_ARGUMENTS: Final = [
    _argument("Idempotency-Key", "Calls with the same key run once; they all get that run's answer.", "header"),
    _argument("Prefer", "respond-async: answer 202 at once; the answer is fetched at its Location.", "header"),
    _argument(
        "Penstock-Timeout-Ms", "The call's deadline in milliseconds.", "header", {"type": "integer", "minimum": 1}
    ),
    _argument("Penstock-Lane", "The lane that the call joins.", "header", {"enum": ["interactive", "batch"]}),
]


def _content(schema: Schema, *kinds: str) -> Schema:
    return {kind: {"schema": schema} for kind in kinds or (_JSON,)}


def _done(description: str, content: Schema | None = None, headers: Schema | None = None) -> Schema:
    response: Schema = {"description": description}
    if content is not None:
        response["content"] = content
    if headers is not None:
        response["headers"] = headers
    return response


def _json(name: str, description: str = "As asked.") -> Schema:
    return _done(description, _content(ref(name)))


def _operation(
    summary: str,
    ok: dict[int, Schema],
    errors: tuple[int, ...] = (),
    *,
    body: Schema | None = None,
    arguments: list[Schema] | None = None,
    optional: bool = False,
) -> Schema:
    """An operation: its responses by status, and the errors that it may answer besides `_ANY`."""
    responses = {str(status): response for status, response in ok.items()}
    for status in sorted({*_ANY, *errors}):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{status}"})
    operation: Schema = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": not optional, "content": body}
    if arguments:
        operation["parameters"] = arguments
    return operation


def _call(summary: str, ok: Schema, request: str, *, binary: bool) -> Schema:
    """An operation that calls a model."""
    arguments = list(_CALL_ARGUMENTS)
    body = _content(ref(request))
    if binary:
        arguments.append(
            _argument(
                "Inference-Header-Content-Length",
                "Bytes of JSON in front of raw tensors; 0 if the body is the raw bytes of the only input.",
                "header",
                COUNT,
            )
        )
        body[_RAW] = {"schema": {}}
    accepted = _done(
        "Accepted, to be fetched at its Location.",
        _content(ref("RequestState")),
        {
            "Location": _header("/v2/requests/ and the handle."),
            "Penstock-Request-Id": _CALL_HEADERS["Penstock-Request-Id"],
        },
    )
    return _operation(summary, {200: ok, 202: accepted}, _CALL, body=body, arguments=arguments)


def _server() -> dict[str, Schema]:
    return {
        "/v2": {"get": _operation("Name, version and extensions of the server", {200: _json("ServerMetadata")})},
        "/v2/health/live": {"get": _operation("Whether the process lives", {200: _json("Live")})},
        "/v2/health/ready": {"get": _operation("Whether calls are taken", {200: _json("Ready"), 400: _done("No.")})},
        "/v2/models/stats": {"get": _operation("Statistics of all models", {200: _json("ModelStatistics")})},
        "/v2/fleet/scaling": {
            "get": _operation(
                "Backlogs, and the workers that they need",
                {200: _done("By version and lane; one object with `model`.", _content(_SCALING))},
                arguments=[
                    _argument("model", "Only this model, its versions and lanes summed up.", "query", _NAME),
                    _argument("version", "With `model`: only this version.", "query", _PATH["version"]["schema"]),
                ],
            )
        },
        "/v2/fleet/models": {
            "get": _operation(
                "Every model version and every live worker, with their figures", {200: _json("FleetModels")}
            )
        },
        "/metrics": {"get": _operation("Where the metrics are: they have a port of their own", {})},
        "/openapi.json": {"get": _operation("This document", {200: _json("Document")})},
    }


def _models() -> dict[str, Schema]:
    paths: dict[str, Schema] = {}
    answer = _done(
        "The outputs, as JSON or as JSON and raw tensors.",
        {**_content(ref("InferResponse")), _RAW: {"schema": {}}},
        {**_CALL_HEADERS, **_LENGTH},
    )
    generated = _done("The outputs by name.", _content(ref("GenerateResponse")), _CALL_HEADERS)
    events = _content(ref("Event"), "text/event-stream")
    streamed = _done("One event `data: {…}` with the outputs by name.", events, _CALL_HEADERS)
    for base, which in ((_MODEL, "the model"), (_VERSION, "the version")):
        paths[base] = {"get": _operation(f"Inputs and outputs of {which}", {200: _json("ModelMetadata")}, (504,))}
        paths[f"{base}/ready"] = {"get": _operation(f"Whether {which} takes calls", {200: _done("Yes.")})}
        paths[f"{base}/config"] = {"get": _operation(f"Configuration of {which}", {200: _json("ModelConfig")}, (504,))}
        paths[f"{base}/stats"] = {"get": _operation(f"Statistics of {which}", {200: _json("ModelStatistics")})}
        paths[f"{base}/infer"] = {"post": _call(f"Run {which}", answer, "InferRequest", binary=True)}
        paths[f"{base}/generate"] = {
            "post": _call(f"Run {which} with flat JSON", generated, "GenerateRequest", binary=False)
        }
        stream = _call(f"Run {which} with flat JSON, answered as an event", streamed, "GenerateRequest", binary=False)
        for status in ("400", "404", "422", "499", "500", "501", "503", "504"):
            stream["responses"][status] = _done(_ERRORS[int(status)], {**events, **_content(ref("Error"))})
        paths[f"{base}/generate_stream"] = {"post": stream}
    return paths


def _repository() -> dict[str, Schema]:
    models = f"{_REPOSITORY}/models/{{model}}"
    named = f"{_REPOSITORY}/{{repository}}"
    load, unload, index = _content(ref("LoadRequest")), _content(ref("UnloadRequest")), _content(ref("IndexRequest"))
    done = {200: _done("Done.")}

    def post(summary: str, ok: dict[int, Schema], body: Schema | None, errors: tuple[int, ...] = ()) -> Schema:
        return {"post": _operation(summary, ok, (500, 501, *errors), body=body, optional=True)}

    refused: dict[int, Schema] = {}
    return {
        f"{_REPOSITORY}/index": post("All versions and their states", {200: _json("RepositoryIndex")}, index),
        f"{named}/index": post("Not supported", refused, index),
        f"{models}/load": post("Load a model on the whole fleet", done, load, (504,)),
        f"{models}/unload": post("Unload a model from the whole fleet", done, unload, (504,)),
        f"{models}/status": {
            "get": _operation("What is desired of a model, and each worker's progress", {200: _json("Document")})
        },
        f"{named}/models/{{model}}/load": post("Not supported", refused, load),
        f"{named}/models/{{model}}/unload": post("Not supported", refused, unload),
        **_aliases(),
    }


def _aliases() -> dict[str, Schema]:
    known = {200: _done("The aliases.", _content({}))}
    one = {200: _json("Document", "Its route.")}
    route, every = _content(ref("Route")), _content({"type": "object", "additionalProperties": ref("Route")})
    errors = (500, 501, 504)
    return {
        f"{_REPOSITORY}/aliases": {"get": _operation("The aliases of all models", known)},
        _ALIASES: {
            "get": _operation("The aliases of a model", known),
            "put": _operation("Set several aliases in one step", known, errors, body=every),
        },
        f"{_ALIASES}/rollback": {"post": _operation("Undo the last change of aliases", known, errors)},
        f"{_ALIASES}/{{alias}}": {
            "get": _operation("The route of an alias", one),
            "put": _operation("Set an alias", known, errors, body=route),
            "delete": _operation("Delete an alias", known, errors),
        },
    }


def _requests() -> dict[str, Schema]:
    wait = _argument("wait_s", "Seconds to wait for the answer.", "query", {"type": "number", "minimum": 0})
    answer = _done(
        "The answer.", {**_content(ref("InferResponse")), _RAW: {"schema": {}}}, {**_CALL_HEADERS, **_LENGTH}
    )
    waits = _done("It is not done.", _content(ref("RequestState")), {"Retry-After": _header("Seconds.", COUNT)})
    return {
        "/v2/requests/{token}": {
            "get": _operation(
                "Status and answer of a request", {200: answer, 202: waits}, (410, *_CALL), arguments=[wait]
            ),
            "delete": _operation("Cancel a request", {200: _json("RequestState")}, (410,)),
        }
    }


def _memory() -> dict[str, Schema]:
    paths: dict[str, Schema] = {}
    for kind, regions in (("system", "SystemRegions"), ("cuda", "CudaRegions")):
        base = f"/v2/{kind}sharedmemory"
        register = _content(ref("SystemRegister" if kind == "system" else "CudaRegister"))
        done = {200: _done("Done.")}
        for part in ("", "/region/{region}"):
            paths[f"{base}{part}/status"] = {"get": _operation("Registered regions", {200: _json(regions)}, (501,))}
            paths[f"{base}{part}/register"] = {
                "post": _operation(
                    "Register a region", done if kind == "system" and part else {}, (501,), body=register
                )
            }
            paths[f"{base}{part}/unregister"] = {"post": _operation("Forget regions", done, (501,))}
    return paths


def _settings() -> dict[str, Schema]:
    trace, log = {200: _json("TraceSettings")}, {200: _json("LogSettings")}
    paths = {
        path: {
            "get": _operation("Trace settings", trace),
            "post": _operation("Change trace settings", trace, (501,), body=_content(ref("TraceChange"))),
        }
        for path in ("/v2/trace/setting", f"{_MODEL}/trace/setting")
    }
    paths["/v2/logging"] = {
        "get": _operation("Log settings of this process", log),
        "post": _operation("Change log settings of this process", log, (501,), body=_content(ref("LogChange"))),
    }
    return paths


def document(version: str) -> dict[str, Any]:
    """The whole document.

    Args:
        version: of Penstock.
    """
    paths = {**_server(), **_models(), **_repository(), **_requests(), **_memory(), **_settings()}
    for path, operations in paths.items():
        arguments = [{"$ref": f"#/components/parameters/{name}"} for name in _PATH if f"{{{name}}}" in path]
        if arguments:
            operations["parameters"] = arguments
    error = _content(ref("Error"))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": version,
            "description": "The Open Inference Protocol V2 as Triton implements it, and a queue's additions.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "parameters": _PATH,
            "responses": {str(status): _done(text, error) for status, text in _ERRORS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }
