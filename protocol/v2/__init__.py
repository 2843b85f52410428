"""The Open Inference Protocol's V2 bodies: JSON, and Triton's binary tensor extension. Pure; used for HTTP and for V2
JSON bodies on Kafka.

Decided here: what a request's body says (`requests`), its tensors (`inputs`) and its parameters (`parameters`), in the types of
`body`; and what a response's body says (`responses`). Not decided here: whether a request fits its model
(`protocol.request_check`), and how one tensor's JSON becomes bytes (`protocol.json_data`).

Triton answers some malformed bodies with 500 and silently truncates integers; this raises `CodecError`. Triton writes the literal
NaN, which is not JSON; this writes null, and refuses an infinity, which a caller must request as raw bytes.
"""

from protocol.v2.body import InferBody, RequestedOutput, SharedInput, SharedMemory
from protocol.v2.inputs import MAX_TENSORS
from protocol.v2.parameters import MAX_PARAMETERS, check_parameters, check_sequence
from protocol.v2.requests import parse_body, parse_json_body, read_shared
from protocol.v2.responses import ResponseBody, encode_response, parse_outputs, refuse_infinity, tensor_json

__all__ = [
    "MAX_PARAMETERS",
    "MAX_TENSORS",
    "InferBody",
    "RequestedOutput",
    "ResponseBody",
    "SharedInput",
    "SharedMemory",
    "check_parameters",
    "check_sequence",
    "encode_response",
    "parse_body",
    "parse_json_body",
    "parse_outputs",
    "read_shared",
    "refuse_infinity",
    "tensor_json",
]
