"""Checks requests against one model version; gives their rows and shape class. Pure.

The rules and texts are `protocol.request_check`'s, which the gateway applies before it publishes; other producers' requests are
only checked here. Requests look alike, so the result is cached by (names, datatypes, shapes, wanted outputs) and costs one look-up.
"""

from __future__ import annotations

import dataclasses
from typing import Final, NamedTuple

from protocol.messages import InferRequest
from protocol.model_config import ModelConfig, TensorSpec
from protocol.request_check import ModelSignature

MAX_REMEMBERED: Final = 1024
"""Results kept; for models with variable sizes there is no other bound."""

_Key = tuple[tuple[str, ...], tuple[tuple[str, str, tuple[int, ...]], ...]]


class Shape(NamedTuple):
    """What batching needs to know about a request.

    Attributes:
        rows: batch elements, 1 for a model that does not batch.
        shape_class: requests of equal classes may share a batch; for each configured input its sizes without the batch,
            `-` if it is left out, or `*` if it may be ragged.
        order: the indices of the request's inputs in the configuration's order; None if they are in that order.
    """

    rows: int
    shape_class: str
    order: tuple[int, ...] | None


class Signature:
    """The check of one model version's requests.

    Args:
        config: complete.
        max_rows: of a request for a model that batches; None for the model's `max_batch_size`.
    """

    def __init__(self, config: ModelConfig, max_rows: int | None = None) -> None:
        self._signature = ModelSignature(config, max_rows)
        self._batching = config.batching
        self._inputs = config.inputs
        self._remembered: dict[_Key, Shape] = {}

    def check_request(self, request: InferRequest) -> Shape:
        """The request's shape.

        Raises:
            InvalidArgument: see `ModelSignature.check`.
        """
        outputs = _once(request.outputs)
        key = (outputs, tuple([(t.name, t.datatype, t.shape) for t in request.inputs]))
        shape = self._remembered.get(key)
        if shape is None:
            shape = self._shape_of(request, outputs)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = shape
        return shape

    @staticmethod
    def in_order(request: InferRequest, shape: Shape) -> InferRequest:
        """The request with its inputs in the configuration's order and each output named once; itself if it is so."""
        inputs, outputs = request.inputs, request.outputs
        if shape.order is None and len(outputs) < 2:
            return request
        if shape.order is not None:
            inputs = tuple([inputs[index] for index in shape.order])
        return dataclasses.replace(request, inputs=inputs, outputs=_once(outputs))

    def _shape_of(self, request: InferRequest, outputs: tuple[str, ...]) -> Shape:
        rows = self._signature.check(request.inputs, outputs, request.label)
        index_by_name = {tensor.name: index for index, tensor in enumerate(request.inputs)}
        order = [index_by_name[spec.name] for spec in self._inputs if spec.name in index_by_name]
        skip = 1 if self._batching else 0
        classes = [
            self._class_of(spec, request.inputs[index_by_name[spec.name]].shape[skip:])
            if spec.name in index_by_name
            else "-"
            for spec in self._inputs
        ]
        return Shape(rows, ",".join(classes), None if order == list(range(len(order))) else tuple(order))

    def _class_of(self, spec: TensorSpec, sizes: tuple[int, ...]) -> str:
        """Sizes that must be equal in a batch; `*` if any may share one."""
        return "*" if spec.allow_ragged_batch and self._batching else "x".join(map(str, sizes))


def _once(outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Each name once."""
    return outputs if len(outputs) < 2 else tuple(dict.fromkeys(outputs))
