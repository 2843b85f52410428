"""Which parts of Triton's Python API a model uses that are not supported here: it loads, and fails when it reaches them. Pure."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from typing import Final

MODULE: Final = "triton_python_backend_utils"
_OF_REQUESTS: Final = {"get_response_sender": "decoupled responses"}
"""Methods of Triton's requests."""


def unsupported_uses(source: str, offered: Collection[str]) -> list[str]:
    """Each use as written in the source, once, in order; empty if the source is not Python.

    Args:
        source: of model.py.
        offered: the names in our module.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    aliases = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
        if name.name == MODULE
    }
    return list(dict.fromkeys(_uses(tree, aliases, offered))) if aliases else []


def _uses(tree: ast.Module, aliases: Collection[str], offered: Collection[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _of(node.func, aliases) == "InferenceRequest":
            yield f"{ast.unparse(node.func)} (calls of other models)"
        elif isinstance(node, ast.Attribute) and node.attr in _OF_REQUESTS:
            yield f"{node.attr} ({_OF_REQUESTS[node.attr]})"
        elif isinstance(node, ast.Attribute) and (name := _of(node, aliases)) and name not in offered:
            yield ast.unparse(node)


def _of(node: ast.expr, aliases: Collection[str]) -> str:
    """The attribute's name if the expression is an attribute of the module; else ""."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
        return node.attr
    return ""
