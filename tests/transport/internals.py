"""Which private names of a library a module uses, and which ones a class of the library has."""

from __future__ import annotations

import ast
import dis
import inspect
from pathlib import Path
from types import ModuleType


def stored_or_defined(kind: type) -> set[str]:
    """Attributes that a class has or that its own methods set, without making an instance."""
    names = set(dir(kind))
    for owner in kind.__mro__:
        names |= set(vars(owner).get("__annotations__", ()))
        for method in vars(owner).values():
            function = inspect.unwrap(method) if callable(method) else getattr(method, "fget", None)
            code = getattr(function, "__code__", None)
            if code is not None:
                names |= {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}
    return names


def imported_from(module: ModuleType, library: str) -> set[tuple[str, str]]:
    """(module, name) of everything that a module imports from a library."""
    return {
        (node.module, alias.name)
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == library
        for alias in node.names
    }


def foreign_private_names(module: ModuleType) -> set[str]:
    """Attributes with a leading underscore that the module uses and does not set on itself."""
    used = {
        node.attr
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    return used - assigned(Path(str(module.__file__)))


def assigned(file: Path) -> set[str]:
    """Attributes that the methods of a file set on `self`, and names of its own methods."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))
