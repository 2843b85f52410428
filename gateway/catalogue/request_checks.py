"""Validates requests against their model's configuration, with a cache of the shapes that passed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.model_config import ModelConfig
from protocol.request_check import ModelSignature
from protocol.tensors import Tensor

_MAX_SEEN: Final = 1024


class RequestCheck:
    """Validates requests for one model version. Names, datatypes and shapes that passed once are not checked again.

    Args:
        max_rows: of a request for a model that batches; None for the model's `max_batch_size`.
    """

    __slots__ = ("_seen", "_signature")

    def __init__(self, config: ModelConfig, max_rows: int | None = None) -> None:
        self._signature = ModelSignature(config, max_rows)
        self._seen: dict[tuple[object, ...], int] = {}

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[str], label: str = "") -> int:
        """The number of rows of the request; 1 for a model that does not batch.

        Args:
            label: the id in the request's body, for the error.

        Raises:
            InvalidArgument: naming what does not fit and what is expected.
        """
        key = (*[(tensor.name, tensor.datatype, tensor.shape) for tensor in inputs], *outputs)
        rows = self._seen.get(key)
        if rows is None:
            rows = self._signature.check(inputs, outputs, label)
            if len(self._seen) >= _MAX_SEEN:
                self._seen.clear()
            self._seen[key] = rows
        return rows
