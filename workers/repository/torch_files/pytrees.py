"""Names for the tensors in nested tuples, lists and dicts, as models return them. Pure.

The rule: a tensor within dicts is named by its keys, joined by dots, with the index in a list below a dict; any other is
`OUTPUT__n` as in Triton, n counting all leaves from the left, also those that are None. If two had the same name, all are
`OUTPUT__n`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from protocol.errors import ConfigError, quoted

MAX_DEPTH: Final = 64
"""Of nested containers; deeper ones are refused."""
_SEQUENCES: Final = frozenset({"builtins.tuple", "builtins.list", "collections.deque", "collections.namedtuple"})
_DICTS: Final = frozenset({"builtins.dict", "collections.OrderedDict"})

Path = tuple[str | int, ...]
"""The keys and indices that lead to a leaf."""


def names_of(paths: Sequence[Path], prefix: str = "OUTPUT__") -> tuple[str, ...]:
    """One name for each leaf; see the rule above."""
    names = []
    for number, path in enumerate(paths):
        first = next((place for place, part in enumerate(path) if isinstance(part, str)), None)
        names.append(f"{prefix}{number}" if first is None else ".".join(map(str, path[first:])))
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{prefix}{number}" for number in range(len(paths)))


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The leaves of a value that a model returned, with their paths: whatever is not a dict, list or tuple.

    Raises:
        ConfigError: it is nested too deeply.
    """
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"the model's outputs are nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from leaves(each, (*path, str(key)))
    elif isinstance(value, tuple | list):
        for index, each in enumerate(value):
            yield from leaves(each, (*path, index))
    else:
        yield path, value


def spec_paths(spec: str) -> tuple[Path, ...]:
    """The paths of the leaves in a tree that torch's `treespec_dumps` wrote.

    Raises:
        ConfigError: it is not such text, or has containers other than tuples, lists and dicts.
    """
    try:
        version, tree = orjson.loads(spec)
        if version != 1:
            raise ValueError(version)
        return tuple(_walk(tree, ()))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(
            f"the file's description of its inputs or outputs is of an unknown form: {quoted(spec)}"
        ) from None


def _walk(tree: Any, path: Path) -> Iterator[Path]:
    kind, children = tree["type"], tree["children_spec"]
    if len(path) > MAX_DEPTH:
        raise ValueError(kind)
    if kind is None:
        yield path
        return
    parts: Sequence[str | int] = range(len(children))
    if kind in _DICTS:
        keys = orjson.loads(tree["context"])
        parts = [str(key) for key in keys]
    elif kind not in _SEQUENCES:
        raise ConfigError(
            f"the model takes or returns a {quoted(kind)}, which only the code that defines it can unpack; export a wrapper whose "
            "forward takes tensors and returns a tensor, a tuple or a dict"
        )
    if len(parts) != len(children):
        raise ValueError(kind)
    for part, child in zip(parts, children, strict=True):
        yield from _walk(child, (*path, part))
