"""Loaded Python models: calls `execute` of Triton's class or `predict` of the short form, and splits the answers.

A model may write to its inputs. In a child they lie in memory that is written anew for every run; in a thread the record's own
bytes are copied, since a batch that fails needs them again to run in parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from protocol.errors import Code, CodecError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig
from protocol.request_check import fits
from protocol.tensors import NUMPY_DTYPE, Array, Tensor, from_array
from workers.backends import pb_utils
from workers.backends.assembly import Stacked, pack, to_caller, to_model
from workers.backends.base import Outcome
from workers.backends.ownership import own
from workers.backends.python_forms import unsupported_answer
from workers.backends.python_modules import forget
from workers.backends.python_short_form import arrays_of
from workers.backends.tensor_instance import TensorInstance
from workers.repository.placement import Placement


class ShortFormInstance(TensorInstance):
    """`Model.predict` with stacked inputs.

    Args:
        config: complete.
        placement: of this instance.
        model: the author's object.
        dedicated: this process runs nothing but this model, so the inputs' memory is written anew for each run.
    """

    def __init__(self, config: ModelConfig, placement: Placement, model: Any, *, dedicated: bool = False) -> None:
        super().__init__(config)
        self._name, self._model, self._dedicated = placement.name, model, dedicated
        self.ready_check = getattr(model, "is_ready", None)

    def prepare(self, requests: Sequence[InferRequest]) -> Stacked:
        """Stack; the arrays of a single request are copied, as they would share its record's memory."""
        stacked = self.assembly.stack(requests)
        if len(requests) == 1:
            for name, array in stacked.inputs.items():
                stacked.inputs[name] = _writable(array, dedicated=self._dedicated)
        return stacked

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """One call for the whole batch."""
        answer = self._model.predict(**inputs)
        if not isinstance(answer, dict):
            if text := unsupported_answer(answer, self._model.predict):
                raise ModelFailed(text)
            raise ModelFailed(f"predict of '{self._name}' must return a dict of arrays, not {type(answer).__name__}")
        return arrays_of(answer, outputs, self._name)

    def close(self) -> None:
        """Call the model's `close` if it has one, and free it."""
        model, self._model = self._model, None
        try:
            if hasattr(model, "close"):
                model.close()
        finally:
            forget(type(model))


@dataclasses.dataclass(slots=True)
class ExecuteResult:
    """The result of `execute`, with the outputs as arrays.

    Attributes:
        responses: one per request.
        outputs: the arrays of each by name; empty for an error or something that is not a response.
    """

    responses: list[object]
    outputs: list[dict[str, Array]]


class TritonFormInstance:
    """`TritonPythonModel.execute` with the batch's requests; see `ShortFormInstance`."""

    def __init__(self, config: ModelConfig, placement: Placement, model: Any, *, dedicated: bool = False) -> None:
        self._name, self._model, self._dedicated = placement.name, model, dedicated
        self.ready_check = getattr(model, "is_ready", None)
        self._batching = config.batching
        self._outputs = {spec.name: spec for spec in config.outputs}
        self._reshaped = {spec.name: spec for spec in config.inputs if spec.reshape is not None}

    def prepare(self, requests: Sequence[InferRequest]) -> list[pb_utils.InferenceRequest]:
        """The requests as Triton's class takes them."""
        names = tuple(self._outputs)
        return [
            pb_utils.InferenceRequest(
                request.label,
                [pb_utils.Tensor(tensor.name, self._input(tensor)) for tensor in request.inputs],
                request.outputs or names,
                request.parameters,
                request.timeout,
            )
            for request in requests
        ]

    def _input(self, tensor: Tensor) -> Array:
        array = _writable(tensor.array(), dedicated=self._dedicated)
        spec = self._reshaped.get(tensor.name)
        if spec is None:
            return array
        rows, sizes = (array.shape[:1], array.shape[1:]) if self._batching else ((), array.shape)
        return array.reshape((*rows, *to_model(spec, sizes)))

    def run(self, prepared: list[pb_utils.InferenceRequest]) -> ExecuteResult:
        """One call for the whole batch; the number of responses must be the number of requests."""
        responses = self._model.execute(prepared)
        if not isinstance(responses, list):
            if text := unsupported_answer(responses, self._model.execute):
                raise ModelFailed(text)
            raise ModelFailed(f"Expected a list in the execute return, found type '{type(responses)}'.")
        if len(responses) != len(prepared):
            raise ModelFailed(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. InferenceRequest(s) "
                f"size is:{len(prepared)}, and InferenceResponse(s) size is:{len(responses)}\n"
            )
        return ExecuteResult(list(responses), [_arrays(response) for response in responses])

    def keep(self, raw: ExecuteResult) -> ExecuteResult:
        """See `Instance`: the responses are the model's own objects, and so may be the arrays in them, which are then copied."""
        for index, response in enumerate(raw.responses):
            if isinstance(response, pb_utils.InferenceResponse):
                raw.responses[index] = response.without_outputs()
        del response
        raw.outputs = [own(arrays) for arrays in raw.outputs]
        return raw

    def split(self, requests: Sequence[InferRequest], raw: ExecuteResult) -> list[Outcome]:
        """Each response on its own: a failed one fails only its request."""
        return [
            self._outcome(request, response, arrays)
            for request, response, arrays in zip(requests, raw.responses, raw.outputs, strict=True)
        ]

    def _outcome(self, request: InferRequest, response: object, given: dict[str, Array]) -> Outcome:
        if not isinstance(response, pb_utils.InferenceResponse):
            wrong = f"Expected an 'InferenceResponse' object in the execute function return list, found type '{type(response)}'."
            return Failure(
                Code.MODEL_FAILED, f"Failed to process the request(s) for model '{self._name}', message: {wrong}"
            )
        error = response.error()
        if error is not None:
            return Failure(pb_utils.CODES.get(error.code(), Code.MODEL_FAILED), error.message())
        # As in Triton, requested outputs that the model did not return are left out.
        names = [name for name in request.outputs or self._outputs if name in given]
        try:
            return tuple([self._tensor(name, given[name]) for name in names])
        except (ModelFailed, CodecError) as exc:
            return Failure(Code.MODEL_FAILED, exc.message)

    def _tensor(self, name: str, array: Array) -> Tensor:
        spec = self._outputs[name]
        dtype = NUMPY_DTYPE[spec.datatype]
        if array.dtype == dtype and spec.datatype != "BYTES":
            tensor = Tensor(name, spec.datatype, array.shape, pack(array, dtype))
        else:  # Triton, too, passes on what a model returns
            tensor = from_array(name, array, "BF16" if spec.datatype == "BF16" else None)
        if spec.reshape is not None:
            rows, sizes = (array.shape[:1], array.shape[1:]) if self._batching else ((), array.shape)
            if not fits(sizes, spec.reshape):
                raise ModelFailed(
                    f"'{self._name}' answered output '{name}' with dims {list(sizes)}; its configuration reshapes "
                    f"{list(spec.reshape)}"
                )
            tensor.shape = (*rows, *to_caller(spec, sizes))
        return tensor

    def close(self) -> None:
        """Call the model's `finalize` if it has one, and free it."""
        model, self._model = self._model, None
        try:
            if hasattr(model, "finalize"):
                model.finalize()
        finally:
            forget(type(model))


def _writable(array: Array, *, dedicated: bool) -> Array:
    """The array, or a copy if its memory is a request's that may be needed again; BYTES are decoded anew each time."""
    if array.dtype == object or (dedicated and array.flags.writeable):
        return array
    return array.copy()


def _arrays(response: object) -> dict[str, Array]:
    """The outputs of a response by name."""
    if not isinstance(response, pb_utils.InferenceResponse) or response.has_error():
        return {}
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
