"""Each private name of redis-py that is used: which one a new version lacks."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from protocol.transport.redis import redis_internals
from protocol.transport.redis.redis_internals import error_code
from tests.transport.internals import foreign_private_names, imported_from, stored_or_defined

ROOT = Path(__file__).parents[2]
DOCUMENTED = {"redis", "redis.asyncio", "redis.asyncio.retry", "redis.backoff", "redis.exceptions"}

ATTRIBUTES = [
    ("redis.asyncio.connection.AbstractConnection", "connect"),
    ("redis.asyncio.connection.AbstractConnection", "disconnect"),
    ("redis.asyncio.connection.AbstractConnection", "_parser"),
    ("redis.asyncio.connection.AbstractConnection", "_reader"),
    ("redis.asyncio.connection.AbstractConnection", "_writer"),
    ("redis._parsers.hiredis._AsyncHiredisParser", "_reader"),
    ("redis.asyncio.connection.AbstractConnection", "read_response"),
    ("redis.asyncio.connection.AbstractConnection", "send_command"),
    ("redis.asyncio.connection.Connection", "host"),
    ("redis.asyncio.connection.Connection", "port"),
    ("redis.asyncio.connection.SSLConnection", "ssl_context"),
    ("redis.asyncio.connection.RedisSSLContext", "get"),
    ("redis.connection.HiredisRespSerializer", "pack"),
    ("redis.exceptions.RedisError", "status_code"),
]
ARGUMENTS = [
    ("disconnect", "nowait"),
    ("read_response", "disable_decoding"),
]
IMPORTED = sorted(imported_from(redis_internals, "redis"))


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES, ids=lambda text: text.rpartition(".")[2])
def test_an_attribute_is_still_there(owner: str, name: str) -> None:
    module, _, kind = owner.rpartition(".")
    assert name in stored_or_defined(getattr(importlib.import_module(module), kind)), f"{owner} has no {name} any more"


@pytest.mark.parametrize(("method", "argument"), ARGUMENTS)
def test_a_method_still_takes_an_argument(method: str, argument: str) -> None:
    assert argument in inspect.signature(getattr(redis_internals.AbstractConnection, method)).parameters


@pytest.mark.parametrize(("module", "name"), IMPORTED, ids=lambda text: text.rpartition(".")[2])
def test_an_import_is_still_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), f"{module} has no {name} any more"


def test_every_private_name_that_is_used_has_a_test() -> None:
    assert foreign_private_names(redis_internals) <= {name for _, name in ATTRIBUTES}


@pytest.mark.parametrize("package", ["protocol", "gateway", "workers", "penstock", "loadtest", "infra"])
def test_nobody_else_imports_what_is_not_documented(package: str) -> None:
    here = Path(redis_internals.__file__)
    found = [
        f"{file.relative_to(ROOT)}: {node.module}"
        for file in (ROOT / package).rglob("*.py")
        if file != here
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "redis"
        if node.module not in DOCUMENTED
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("@user_script: 84: -NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
        ("@user_script: 84: -READONLY You can't write against a read only replica.", "READONLY"),
        ("Error running script (call to f_0a): @user_script:38: @user_script: 38: -READONLY You can't", "READONLY"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: 0a, on @user_script:84.", "OOM"),
        ("", ""),
    ],
)
def test_the_code_of_an_error_is_found_in_a_script_of_redis_6_2(text: str, code: str) -> None:
    assert error_code(ResponseError(text)) == code
