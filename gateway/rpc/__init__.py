"""The gRPC door: `inference.GRPCInferenceService` with Triton's messages, and the standard health and reflection services.

Invariants: the bytes of `raw_input_contents` are never copied here nor turned into Python objects; a call is refused by its
metadata before its message is read; whatever bytes a message has, its call ends with an answer or with an error of ours; a caller
that goes cancels its call.
"""
