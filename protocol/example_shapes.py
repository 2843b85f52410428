"""Shapes to try for made-up inputs of a model whose configuration leaves sizes free: what else fits, only the model knows. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

Shapes = dict[str, tuple[int, ...]]
"""By input."""

SIZES: Final = (1, 8, 32, 224, 512, 64, 256, 16)
"""Sizes of one axis: tokens and samples begin at 1, images at 8; those that most models accept first."""
CHANNELS: Final = (3, 1)
_WITH_CHANNELS: Final = (32, 224)
_IMAGE_AXES: Final = 3
MAX_ELEMENTS: Final = 1 << 22
"""Elements of all inputs together, above which shapes are not tried."""


def candidates(
    inputs: Mapping[str, Sequence[int]], rows: int | None = 1, given: Mapping[str, tuple[int, ...]] | None = None
) -> Iterator[Shapes]:
    """Shapes in the order in which they are worth trying, each once; one if no size is free.

    Args:
        inputs: the shapes of the metadata, by input; -1 is a free size.
        rows: the size of every first axis, for a model that batches; None for a model that does not.
        given: shapes that are known; they are not varied.
    """
    stated = dict(given or {})
    seen: set[tuple[tuple[int, ...], ...]] = set()
    axes = max((_free(shape, rows is not None) for shape in inputs.values()), default=0)
    for fill in _fills(axes, batches=rows is not None):
        shapes = {
            name: stated[name] if name in stated else _filled(shape, rows, fill) for name, shape in inputs.items()
        }
        key = tuple(shapes.values())
        if key not in seen and (not seen or sum(map(math.prod, shapes.values())) <= MAX_ELEMENTS):
            seen.add(key)
            yield shapes


class _Fill(NamedTuple):
    """Sizes for the free axes of an input.

    Attributes:
        first, between, last: of the axes in their order.
        single: whether there is one more axis before them, of size 1.
    """

    first: int
    between: int
    last: int
    single: bool

    def sizes(self, axes: int) -> list[int]:
        """The sizes of so many axes."""
        if self.single and axes:
            return [1, *self._replace(single=False).sizes(axes - 1)]
        sizes = [self.between] * axes
        if axes:
            sizes[-1] = self.last
            sizes[0] = self.first
        return sizes


def _fills(axes: int, *, batches: bool) -> Iterator[_Fill]:
    """For inputs of at most so many free axes. Of a model that does not batch, the first may be a batch all the same."""
    single = not batches
    equal = [_Fill(size, size, size, single) for size in SIZES]
    if axes - single >= _IMAGE_AXES:  # the channels of an image may be free, too
        yield from (fill for fill in equal if fill.last in (1, *_WITH_CHANNELS))
        for channels in CHANNELS:
            for size in _WITH_CHANNELS:
                yield _Fill(channels, size, size, single)
                yield _Fill(size, size, channels, single)
    yield from (*equal, *(fill._replace(single=not single) for fill in equal))


def _free(shape: Sequence[int], batches: bool) -> int:
    return sum(size < 0 for size in shape[1 if batches else 0 :])


def _filled(shape: Sequence[int], rows: int | None, fill: _Fill) -> tuple[int, ...]:
    sizes = list(shape)
    if rows is not None and sizes and sizes[0] < 0:
        sizes[0] = rows
    free = [axis for axis, size in enumerate(sizes) if size < 0]
    for axis, size in zip(free, fill.sizes(len(free)), strict=True):
        sizes[axis] = size
    return tuple(sizes)
