"""The gRPC door: `inference.GRPCInferenceService` with Triton's messages, and the standard health and reflection services.

`server` gives each call of `http2` to the method that answers it; `inference` and `streaming` run requests, `management` answers
the rest.

Invariants: the bytes of `raw_input_contents` are never copied here nor turned into Python objects; a call is refused by its
metadata before its message is read; whatever bytes a message has, its call ends with an answer or with an error of ours; a caller
that goes cancels its call.
"""
