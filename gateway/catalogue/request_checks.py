"""A request against its model's configuration, remembered. Pure but for that.

Invariant: `RequestCheck` is made once per model version; names, datatypes and shapes that fitted once are not looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.model_config import ModelConfig
from protocol.request_check import ModelSignature
from protocol.tensors import Tensor

_MAX_SEEN: Final = 1024


class RequestCheck:
    """What a request for one model version must look like."""

    __slots__ = ("_seen", "_signature")

    def __init__(self, config: ModelConfig) -> None:
        self._signature = ModelSignature(config)
        self._seen: dict[tuple[object, ...], int] = {}

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[str], label: str = "") -> int:
        """How many rows the request has; 1 for a model that does not batch.

        Raises:
            InvalidArgument: naming what does not fit, and what would; `label` is the id in the request's body.
        """
        key = (*[(tensor.name, tensor.datatype, tensor.shape) for tensor in inputs], *outputs)
        rows = self._seen.get(key)
        if rows is None:
            rows = self._signature.check(inputs, outputs, label)
            if len(self._seen) >= _MAX_SEEN:
                self._seen.clear()
            self._seen[key] = rows
        return rows
