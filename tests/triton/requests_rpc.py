"""Calls over gRPC, good and bad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.triton.case import Json, RpcCase, described, message, rpc, rpc_infer, stream
from tests.triton.requests_ordinary import raw_of

RAW = np.array([1, 2], np.int32).tobytes()
AB = [described("A"), described("B")]
X = [described("X", "FP32", (1, 2))]
FLOATS = np.array([1, 2], np.float32).tobytes()


def endpoints() -> Iterator[RpcCase]:
    for name in ("ServerLive", "ServerReady"):
        yield rpc(name, name)
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        if method != "ModelStatistics":
            for model in ("sum", "plain", "types", "text", "versions", "priority", "noinputs", "optional"):
                yield rpc(f"{method} of {model}", method, name=model)
            yield rpc(f"{method} of a version", method, name="versions", version="1")
        yield rpc(f"{method} of an unknown model", method, name="missing")
        yield rpc(f"{method} of an unknown version", method, name="sum", version="7")
        yield rpc(f"{method} of a version that is no number", method, name="sum", version="one")
        yield rpc(f"{method} of a model that is not loaded", method, name="broken")
        if method != "ModelStatistics":
            yield rpc(f"{method} of no name", method)
    yield rpc("index of what is ready", "RepositoryIndex", ready=True)
    yield rpc("index of another repository", "RepositoryIndex", repository_name="other")
    yield RpcCase("rpc: no such method", "NoSuchMethod")
    yield RpcCase("rpc: bytes that are no message", "ModelInfer", (b"\xff\xff\xff",))
    yield RpcCase("rpc: metadata of bytes that are no message", "ModelMetadata", (b"\xff\xff\xff",))


def inputs() -> Iterator[RpcCase]:
    yield rpc_infer("good", "sum", AB, RAW, RAW)
    yield rpc_infer("good with an id", "sum", AB, RAW, RAW, id="r1")
    yield rpc_infer("good with a version", "sum", AB, RAW, RAW, model_version="1")
    yield rpc_infer("of version 1", "versions", [described("X", "FP32", (2,))], FLOATS, model_version="1")
    yield rpc_infer("of the newest version", "versions", [described("X", "FP32", (2,))], FLOATS)
    yield rpc_infer("inputs in another order", "sum", AB[::-1], RAW, RAW)
    yield rpc_infer("an unknown model", "missing", AB, RAW, RAW)
    yield rpc_infer("an unknown model with an id", "missing", AB, RAW, RAW, id="r1")
    yield rpc_infer("an unknown version", "sum", AB, RAW, RAW, model_version="7")
    yield rpc_infer("a version that is no number", "sum", AB, RAW, RAW, model_version="one")
    yield rpc_infer("a model that is not loaded", "broken", [described("X", "FP32", (2,))], FLOATS)
    yield rpc_infer("no model", "", AB, RAW, RAW)
    yield rpc_infer("no inputs", "sum", [])
    yield rpc_infer("no inputs, with an id", "sum", [], id="r1")
    yield rpc_infer("a missing input", "sum", AB[:1], RAW, id="r1")
    yield rpc_infer("an unknown input", "sum", [AB[0], described("C")], RAW, RAW, id="r1")
    yield rpc_infer("an extra input", "sum", [*AB, described("C")], RAW, RAW, RAW, id="r1")
    yield rpc_infer("an input twice", "sum", [AB[0], AB[0]], RAW, RAW, id="r1")
    yield rpc_infer("an empty name", "sum", [described(""), AB[1]], RAW, RAW, id="r1")
    yield rpc_infer("a wrong datatype", "sum", [described("A", "FP32"), AB[1]], RAW, RAW, id="r1")
    yield rpc_infer("an unknown datatype", "sum", [described("A", "INT33"), AB[1]], RAW, RAW, id="r1")
    yield rpc_infer("no datatype", "sum", [described("A", ""), AB[1]], RAW, RAW, id="r1")
    yield rpc_infer("a wrong size", "sum", [described("A", shape=(1, 3)), AB[1]], RAW + RAW[:4], RAW, id="r1")
    yield rpc_infer("a dimension too much", "sum", [described("A", shape=(1, 1, 2)), AB[1]], RAW, RAW, id="r1")
    yield rpc_infer("no batch dimension", "sum", [described("A", shape=(2,)), AB[1]], RAW, RAW, id="r1")
    yield rpc_infer("a negative size", "sum", [described("A", shape=(-1, 2)), AB[1]], RAW, RAW, id="r1")
    yield rpc_infer("an empty shape", "sum", [described("A", shape=()), AB[1]], RAW[:4], RAW, id="r1")
    yield rpc_infer("rows that differ", "sum", [described("A", shape=(2, 2)), AB[1]], RAW * 2, RAW, id="r1")
    yield rpc_infer("five rows", "sum", [described(n, shape=(5, 2)) for n in "AB"], RAW * 5, RAW * 5, id="r1")
    yield rpc_infer("no rows", "sum", [described(n, shape=(0, 2)) for n in "AB"], b"", b"", id="r1")
    yield rpc_infer("no elements", "types", [described("FP32", "FP32", (0,))], b"")
    yield rpc_infer("raw contents too short", "sum", AB, RAW[:4], RAW, id="r1")
    yield rpc_infer("raw contents too long", "sum", AB, RAW * 2, RAW, id="r1")
    yield rpc_infer("raw contents too few", "sum", AB, RAW, id="r1")
    yield rpc_infer("raw contents too many", "sum", AB, RAW, RAW, RAW, id="r1")
    yield rpc_infer("no data", "sum", AB, id="r1")
    ints: Json = {"contents": {"int_contents": [1, 2]}}
    yield rpc_infer("contents", "sum", [AB[0] | ints, AB[1] | ints])
    yield rpc_infer("contents and raw contents", "sum", [AB[0] | ints, AB[1]], RAW, RAW, id="r1")
    yield rpc_infer("contents of one, raw of the other", "sum", [AB[0] | ints, AB[1]], RAW, id="r1")
    yield rpc_infer("contents too few", "sum", [AB[0] | {"contents": {"int_contents": [1]}}, AB[1] | ints], id="r1")
    yield rpc_infer(
        "contents too many", "sum", [AB[0] | {"contents": {"int_contents": [1] * 3}}, AB[1] | ints], id="r1"
    )
    yield rpc_infer(
        "contents in a wrong field", "sum", [AB[0] | {"contents": {"fp32_contents": [1, 2]}}, AB[1] | ints], id="r1"
    )
    yield rpc_infer(
        "contents of 16 bits beyond them",
        "types",
        [described("INT16", "INT16", (1,), contents={"int_contents": [70000]})],
    )
    yield rpc_infer(
        "contents of UINT8 beyond them", "types", [described("UINT8", "UINT8", (1,), contents={"uint_contents": [300]})]
    )
    yield rpc_infer(
        "FP16 as contents", "types", [described("FP16", "FP16", (1,), contents={"fp32_contents": [1]})], id="r1"
    )
    yield rpc_infer("NaN", "plain", [described("X", "FP32", (2, 1))], np.array([np.nan, -np.inf], np.float32).tobytes())
    text = raw_of("BYTES", ["ab", ""])
    yield rpc_infer("BYTES", "text", [described("T", "BYTES", (2,))], text)
    yield rpc_infer("BYTES, with a length cut", "text", [described("T", "BYTES", (2,))], text[:8], id="r1")
    yield rpc_infer("BYTES, with an element cut", "text", [described("T", "BYTES", (1,))], text[:5], id="r1")
    yield rpc_infer("BYTES, too few elements", "text", [described("T", "BYTES", (2,))], text[:6], id="r1")
    yield rpc_infer("BYTES, too many elements", "text", [described("T", "BYTES", (1,))], text, id="r1")
    yield rpc_infer("BYTES that are no UTF-8", "text", [described("T", "BYTES", (1,))], b"\x02\0\0\0\xff\xfe")
    yield rpc_infer("BYTES with a NUL", "text", [described("T", "BYTES", (1,))], b"\x03\0\0\0a\0b")
    yield rpc_infer("no inputs, all optional", "alloptional", [])
    yield rpc_infer("one of two optional inputs", "optional", [described("A", shape=(1, 1))], RAW[:4])
    yield rpc_infer("the optional input missing", "halfoptional", [described("A", shape=(1, 1))], RAW[:4])
    yield rpc_infer("the needed input missing", "halfoptional", [described("B", shape=(1, 1))], RAW[:4], id="r1")
    yield rpc_infer("a model without inputs", "noinputs", [])
    yield rpc_infer("a model without outputs", "nooutputs", [described("X", "FP32", (2,))], FLOATS)
    yield rpc_infer("8 KB", "versions", [described("X", "FP32", (2048,))], FLOATS * 1024)
    yield rpc_infer(
        "shared memory that is not there",
        "sum",
        [
            AB[0]
            | {
                "parameters": {
                    "shared_memory_region": {"string_param": "r"},
                    "shared_memory_byte_size": {"int64_param": 8},
                }
            },
            AB[1],
        ],
        RAW,
    )


def parameters() -> Iterator[RpcCase]:
    def given(name: str, model: str = "sum", **parameters: Json) -> RpcCase:
        if model == "sum":
            return rpc_infer(name, model, AB, RAW, RAW, parameters=parameters, id="r1")
        return rpc_infer(name, model, X, FLOATS, parameters=parameters, id="r1")

    yield given(
        "own parameters", a={"int64_param": 1}, b={"string_param": "t"}, c={"bool_param": True}, d={"double_param": 1.5}
    )
    yield given("a parameter without a value", a={})
    yield given("a parameter of uint64", a={"uint64_param": 2**64 - 1})
    yield given("a reserved parameter", triton_x={"int64_param": 1})
    yield given("an empty final response", triton_enable_empty_final_response={"bool_param": True})
    yield given("an empty final response as text", triton_enable_empty_final_response={"string_param": "true"})
    for key in ("sequence_start", "sequence_end"):
        yield given(f"{key} is true", **{key: {"bool_param": True}})
        yield given(f"{key} is 1", **{key: {"int64_param": 1}})
    yield given("sequence_id is 5", sequence_id={"int64_param": 5})
    yield given("sequence_id is text", sequence_id={"string_param": "five"})
    yield given("sequence_id is a boolean", sequence_id={"bool_param": True})
    for key in ("priority", "timeout"):
        for kind, value in (
            ("int64_param", 9 * 10**6),
            ("uint64_param", 9 * 10**6),
            ("int64_param", 0),
            ("string_param", "1"),
            ("bool_param", True),
            ("double_param", 1.5),
        ):
            yield given(f"{key} of {kind} {value}", "priority", **{key: {kind: value}})
        yield given(f"{key} is negative", "priority", **{key: {"int64_param": -1}})
    yield given("priority 2", "priority", priority={"uint64_param": 2})


def outputs() -> Iterator[RpcCase]:
    def wanted(name: str, *entries: Any) -> RpcCase:
        return rpc_infer(name, "sum", AB, RAW, RAW, id="r1", outputs=list(entries))

    yield wanted("one output", {"name": "SUM"})
    yield wanted("the other output", {"name": "DIFF"})
    yield wanted("both outputs", {"name": "SUM"}, {"name": "DIFF"})
    yield wanted("both outputs reversed", {"name": "DIFF"}, {"name": "SUM"})
    yield wanted("an unknown output", {"name": "W"})
    yield wanted("a known and an unknown output", {"name": "SUM"}, {"name": "W"})
    yield wanted("an output twice", {"name": "SUM"}, {"name": "SUM"})
    yield wanted("an output without a name", {})
    for count in (1, 2, 5):
        yield wanted(
            f"classification of {count}", {"name": "SUM", "parameters": {"classification": {"int64_param": count}}}
        )
    yield wanted("classification of zero", {"name": "SUM", "parameters": {"classification": {"int64_param": 0}}})
    yield wanted("classification of text", {"name": "SUM", "parameters": {"classification": {"string_param": "1"}}})
    yield wanted("an unknown parameter of an output", {"name": "SUM", "parameters": {"a": {"int64_param": 1}}})


def models() -> Iterator[RpcCase]:
    def behaves(mode: str, name: str = "", **more: Any) -> RpcCase:
        return rpc_infer(
            name or f"the model: {mode}", "behaves", [described("MODE", "BYTES", (1,))], raw_of("BYTES", [mode]), **more
        )

    for mode in (
        "raises:broken weights",
        "raises_own:mine",
        "raises_lines",
        "raises_triton:said so",
        "error:said so",
        "error_with_outputs",
        "nothing",
        "two",
        "wrong_kind",
        "only_y",
        "no_outputs",
        "unknown_output",
        "wrong_dtype",
        "wrong_shape",
        "scalar",
        "empty",
        "values:0.1:-0.0:3",
        "values:nan:inf",
        "not_utf8",
        "control",
        "strings",
        "strided",
    ):
        yield behaves(mode)
    for code in (
        "UNKNOWN",
        "INTERNAL",
        "NOT_FOUND",
        "INVALID_ARG",
        "UNAVAILABLE",
        "UNSUPPORTED",
        "ALREADY_EXISTS",
        "CANCELLED",
    ):
        yield behaves(f"error_code:{code}:said so")
    yield behaves("raises:broken weights", "the model raises, with an id", id="r1")
    yield behaves("error:said so", "the model answers an error, with an id", id="r1")
    yield behaves("only_y", "an output left out that is asked for", outputs=[{"name": "Z"}], id="r1")


def streams() -> Iterator[RpcCase]:
    good: Json = {"model_name": "sum", "inputs": AB, "raw_input_contents": [RAW, RAW]}
    missing: Json = good | {"model_name": "missing"}
    bad: Json = good | {"inputs": AB[:1], "raw_input_contents": [RAW]}
    failing: Json = {
        "model_name": "behaves",
        "inputs": [described("MODE", "BYTES", (1,))],
        "raw_input_contents": [raw_of("BYTES", ["error:said so"])],
    }
    close = (("triton_grpc_error", "true"),)
    yield stream("a stream of none")
    yield stream("a stream of one", good)
    yield stream("a stream of one with an id", good | {"id": "1"})
    yield stream("a stream of three", *[good | {"id": str(number)} for number in range(3)])
    yield stream("a stream with an unknown model", good | {"id": "1"}, missing | {"id": "2"}, good | {"id": "3"})
    yield stream("a stream with a bad request", bad | {"id": "1"}, good | {"id": "2"})
    yield stream("a stream with a bad request without an id", bad)
    yield stream("a stream whose model fails", failing | {"id": "1"})
    yield stream("a stream that closes on an error", missing | {"id": "1"}, metadata=close)
    yield stream("a stream that closes on a model's error", failing | {"id": "1"}, metadata=close)
    final: Json = {"triton_enable_empty_final_response": {"bool_param": True}}
    yield stream("a stream that wants an empty final response", good | {"id": "1", "parameters": final})
    yield stream(
        "a stream with a sequence",
        good | {"id": "1", "parameters": {"sequence_id": {"int64_param": 5}, "sequence_start": {"bool_param": True}}},
    )
    yield stream("a stream with one output", good | {"id": "1", "outputs": [{"name": "SUM"}]})
    yield stream("a stream with a version", good | {"id": "1", "model_version": "1"})
    yield RpcCase("rpc: a stream of bytes that are no message", "ModelStreamInfer", (b"\xff\xff\xff",))
    yield RpcCase("rpc: a stream of an empty message", "ModelStreamInfer", (message("ModelInferRequest"),))
