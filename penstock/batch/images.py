"""Image files as inputs, with the extra `images` (Pillow).

A column holds paths, relative to the folder of the input file. An input of datatype BYTES gets the file's bytes as they are. Any
other gets pixels: the file is decoded, turned as its EXIF tag says, converted to grey, RGB or RGBA by the input's number of
channels, and resized (bilinear) to the input's height and width. A free size (-1) keeps the image's own. Integers are 0 to 255;
floats are 0 to 1, then `(x - mean) / std` by channel if those are given. Which dimension is the channel's is said by the
configuration's `format`, and otherwise by where its size is 1, 3 or 4; without such a dimension the image is grey.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.batch.columns import wanted
from penstock.batch.records import Bad, bad
from protocol.errors import InvalidArgument, Unsupported, quoted
from protocol.model_config import TensorSpec
from protocol.tensors import NUMPY_DTYPE, Array

MAX_FILE: Final = 64 * 1024 * 1024
"""Bytes of an image file."""
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
_EXTRA: Final = "images need Pillow: pip install 'penstock[images]'"


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How an input holds an image.

    Attributes:
        height, width: in pixels; -1 keeps the image's.
        channels: 1, 3 or 4.
        axis: of the channels: 0 or 2; None if there is no such dimension.
    """

    height: int
    width: int
    channels: int
    axis: int | None


def layout_of(spec: TensorSpec) -> Layout:
    """How the input holds an image.

    Raises:
        InvalidArgument: it does not.
    """
    dims = spec.dims
    if len(dims) == 2:
        return Layout(dims[0], dims[1], 1, None)
    if len(dims) == 3:
        first = spec.format == "FORMAT_NCHW" or (spec.format == "FORMAT_NONE" and dims[0] in _MODES)
        axis = 0 if first else 2
        if dims[axis] in _MODES:
            height, width = dims[1:] if first else dims[:2]
            return Layout(height, width, dims[axis], axis)
    raise InvalidArgument(
        f"--image-column: input '{spec.name}' needs {wanted(spec)}, which is no image: that has height and width, and 1, 3 or 4 "
        "channels first or last"
    )


class Images:
    """Reads image files for one input.

    Args:
        column: the one that holds paths.
        spec: of the input.
        folder: that paths are relative to.
        mean, std: by channel; empty for none.

    Raises:
        Unsupported: Pillow is not installed.
        InvalidArgument: the input is no image, or takes no pixels.
    """

    def __init__(
        self, column: str, spec: TensorSpec, folder: Path, mean: Sequence[float] = (), std: Sequence[float] = ()
    ) -> None:
        self.column, self._spec, self._folder = column, spec, folder
        self._layout = None if spec.datatype == "BYTES" else layout_of(spec)
        if self._layout is None:
            return
        if spec.datatype in ("BF16", "BOOL"):
            raise InvalidArgument(f"--image-column: input '{spec.name}' is {spec.datatype}, which holds no pixels")
        for name, values in (("--image-mean", mean), ("--image-std", std)):
            if values and len(values) not in (1, self._layout.channels):
                raise InvalidArgument(
                    f"{name} has {len(values)} numbers; the image has {self._layout.channels} channels"
                )
        self._mean, self._std = np.array(mean or [0.0], "f4"), np.array(std or [1.0], "f4")
        try:
            from PIL import Image, ImageOps
        except ImportError:
            raise Unsupported(_EXTRA) from None
        self._image, self._ops = Image, ImageOps

    def decode(self, row: Any) -> Any:
        """The row with the image in the place of its path, or why it cannot be read."""
        if type(row) is not dict or self.column not in row:
            return row
        name = row[self.column]
        if not isinstance(name, str):
            return bad(f"column {quoted(self.column)} holds {quoted(name)}, and not the path of an image")
        found = self._read(name)
        return found if isinstance(found, Bad) else {**row, self.column: found}

    def _read(self, name: str) -> Any:
        says = f"column {quoted(self.column)}: the image {quoted(name)}"
        try:
            path = self._folder / name
            if path.stat().st_size > MAX_FILE:
                return bad(f"{says} has more than {MAX_FILE} bytes")
            if not path.is_file():
                return bad(f"{says} is not a file")
            return path.read_bytes() if self._layout is None else self._pixels(path, self._layout)
        except FileNotFoundError:
            return bad(f"{says} does not exist")
        except Exception as error:  # Pillow's decoders raise anything at a damaged file
            return bad(f"{says} cannot be read: {type(error).__name__}: {error}")

    def _pixels(self, path: Path, layout: Layout) -> Array:
        with self._image.open(path) as opened:
            image = self._ops.exif_transpose(opened).convert(_MODES[layout.channels])
        size = (layout.width if layout.width > 0 else image.width, layout.height if layout.height > 0 else image.height)
        if image.size != size:
            image = image.resize(size, self._image.Resampling.BILINEAR)
        pixels: Array = np.asarray(image)
        if pixels.ndim == 2 and layout.axis is not None:
            pixels = pixels[:, :, None]
        dtype = NUMPY_DTYPE[self._spec.datatype]
        if dtype.kind == "f":
            pixels = ((pixels.astype("f4") / 255 - self._mean) / self._std).astype(dtype)
        if layout.axis == 0:
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels, dtype)
