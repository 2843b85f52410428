"""The models of a heartbeat, whose numbers are unpacked when somebody looks at them. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import overload

from protocol.errors import CodecError
from protocol.heartbeat_parts.encoding import NOTHING, decode_loads, with_numbers
from protocol.messages import ModelLoad


class Loads(Sequence[ModelLoad]):
    """The models of a heartbeat. Their numbers are unpacked when they are looked at for the first time.

    A model whose facts and numbers stay is the same object in later heartbeats, so that nothing need be worked out again.

    Args:
        base: the numbers of each in the description.
        changed: the loads, which have newer numbers of some; unpacked with the first look. Unreadable ones have none.
        on_look: called with the loads at the first look.
        unpacked: by place, the models that were looked at, and their packed numbers; of the former loads with the same facts.

    Attributes:
        facts: the same models without numbers; one object as long as nothing but numbers changes.
    """

    __slots__ = ("_base", "_changed", "_newer", "_on_look", "_unpacked", "facts")

    def __init__(
        self,
        facts: tuple[ModelLoad, ...],
        base: Sequence[bytes],
        changed: bytes = NOTHING,
        on_look: Callable[[Loads, bytes], None] | None = None,
        unpacked: dict[int, tuple[bytes, ModelLoad]] | None = None,
    ) -> None:
        self.facts = facts
        self._base = base
        self._changed = changed
        self._on_look = on_look
        self._newer: dict[int, bytes] | None = None
        self._unpacked = {} if unpacked is None else unpacked

    def later(
        self, base: Sequence[bytes], changed: bytes = NOTHING, on_look: Callable[[Loads, bytes], None] | None = None
    ) -> Loads:
        """The same models with other numbers; see the arguments of `Loads`."""
        return Loads(self.facts, base, changed, on_look, self._unpacked)

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, index: int) -> ModelLoad: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ModelLoad]: ...

    def __getitem__(self, index: int | slice) -> ModelLoad | Sequence[ModelLoad]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self.facts)))]
        at = index if index >= 0 else index + len(self.facts)
        changed = self._look() if self._newer is None else self._newer
        packed = changed.get(at) or self._base[at]
        known = self._unpacked.get(at)
        if known is None or known[0] != packed:
            known = self._unpacked[at] = packed, with_numbers(self.facts[index], packed)
        return known[1]

    def _look(self) -> dict[int, bytes]:
        self._newer = {}
        if self._on_look is not None:
            self._on_look(self, self._changed)
        if self._changed:
            with contextlib.suppress(CodecError):
                self._newer = decode_loads(self._changed)[1]
        return self._newer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # it is compared by its contents

    def __repr__(self) -> str:
        return repr(tuple(self))


def facts_of(models: Sequence[ModelLoad]) -> Sequence[ModelLoad]:
    """The models of a heartbeat for somebody who needs no numbers."""
    return models.facts if isinstance(models, Loads) else models
