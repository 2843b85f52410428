"""Python models that are written for something else, or in a way that is not served yet: what they are, where, and what to change.

Each text is one sentence, "" where there is nothing to say. Neither imports a model nor the library that it was written for.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any, Final

SHORT_FORM: Final = "Model"
TRITON_FORM: Final = "TritonPythonModel"
METHODS: Final = {TRITON_FORM: "execute", SHORT_FORM: "predict"}
"""The classes that are served, and the method that each must have."""

_ALIKE: Final = ("predict", "execute", "infer", "forward", "__call__", "run", "inference")

_INSTEAD: Final = {
    SHORT_FORM: "a dict of arrays",
    TRITON_FORM: "a list with one InferenceResponse per request",
}
_LITSERVE: Final = (
    "is an API of LitServe, which Penstock does not run: make it a plain 'class Model:', turn its setup into __init__, and let "
    "'def predict(self, X)' take and return arrays by name, in place of decode_request, predict and encode_response"
)
_MOSEC: Final = (
    "is a worker of Mosec, which Penstock does not run: make it a plain 'class Model:', and turn its forward into "
    "'def predict(self, X)', which takes and returns arrays by name"
)
_WEB: Final = (
    "is a web application; Penstock takes the calls itself: put what its routes compute into 'def predict(self, X)' of a "
    "'class Model:', which takes and returns arrays by name"
)
_PIPELINE: Final = (
    "is a pipeline of transformers: create it in __init__ of a 'class Model:', and call it in 'def predict(self, TEXT)', which "
    "takes and returns arrays by name"
)
_BASES: Final = {"litserve.LitAPI": _LITSERVE, "mosec.Worker": _MOSEC, "mosec.worker.Worker": _MOSEC}
_CALLS: Final = {
    "fastapi.FastAPI": _WEB,
    "flask.Flask": _WEB,
    "transformers.pipeline": _PIPELINE,
    "transformers.pipelines.pipeline": _PIPELINE,
}


def foreign_form(source: str, file: str) -> str:
    """What a file without a model class was written for.

    Args:
        source: of the file.
        file: its path, for the text.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # the import says it better
        return ""
    full, served = _imported(tree), not METHODS.keys().isdisjoint(_defined(tree))
    for node in tree.body:
        if served and not (isinstance(node, ast.ClassDef) and node.name in METHODS):
            continue
        for line, what in _foreign(node, full):
            return f"{file}:{line}: {what}"
    return ""


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names that the file may give to something at its top level, also within if and try."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from [alias.asname or alias.name for alias in node.names]
            if any(alias.name == "*" for alias in node.names):
                yield from METHODS
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _imported(tree: ast.Module) -> dict[str, str]:
    """What the names of imports stand for, as `ls` for `litserve`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _foreign(node: ast.stmt, full: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Line and text of a statement that says what the file is for."""
    if isinstance(node, ast.ClassDef):
        for base in node.bases:
            if text := _BASES.get(_full_name(base, full)):
                yield node.lineno, f"class {node.name} {text}"
        return
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    if isinstance(value, ast.Call) and (text := _CALLS.get(_full_name(value.func, full))):
        yield node.lineno, f"'{ast.unparse(value.func)}(…)' {text}"


def _full_name(expression: ast.expr, full: dict[str, str]) -> str:
    if isinstance(expression, ast.Subscript):  # a generic class
        expression = expression.value
    head, dot, rest = ast.unparse(expression).partition(".")
    return full.get(head, head) + dot + rest


def unsupported_method(model_class: type, name: str) -> str:
    """Why a method that is there cannot be served yet: it is async, or a generator."""
    function = inspect.getattr_static(model_class, name, None)
    if isinstance(function, staticmethod | classmethod):
        function = function.__func__
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        what, cure = "is a generator", f"return {_INSTEAD.get(model_class.__name__, 'the answer')} in place of 'yield'"
    elif inspect.iscoroutinefunction(function):
        what = "is an 'async def'"
        cure = f"write 'def {name}', and wrap what it awaits in asyncio.run(…)"
    else:
        return ""
    return f"{_place(function)}{name} of class {model_class.__name__} {what}, which is not supported yet: {cure}"


def _place(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}: "


def place_of_class(model_class: type) -> str:
    """File and line of a class, in front of a text; "" if they are not known."""
    try:
        return f"{inspect.getsourcefile(model_class)}:{inspect.getsourcelines(model_class)[1]}: "
    except (OSError, TypeError):
        return ""


def similar_method(model_class: type, wanted: str) -> str:
    """A hint at a method with another usual name."""
    found = next((name for name in _ALIKE if name != wanted and name in vars(model_class)), "")
    return f"; rename its '{found}'" if found else ""


def unsupported_answer(answer: object, method: Any) -> str:
    """Why something that a model returned cannot be an answer yet: it is a coroutine, or a generator. It is closed."""
    if inspect.iscoroutine(answer):
        answer.close()
        what, cure = "a coroutine", "return what it gives: asyncio.run(…)"
    elif inspect.isgenerator(answer):
        answer.close()
        what, cure = "a generator", "return the whole answer at once"
    elif inspect.isasyncgen(answer) or inspect.isawaitable(answer):
        what, cure = f"an object to be awaited ({type(answer).__name__})", "return what it gives: asyncio.run(…)"
    else:
        return ""
    return f"{_place(method)}{getattr(method, '__name__', 'it')} returned {what}, which is not supported yet: {cure}"
