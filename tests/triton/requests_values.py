"""Infer requests whose values, binary tensors or raw bodies are special."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.triton.case import LENGTH, Case, Json, infer, tensor


def values() -> Iterator[Case]:
    good: list[tuple[str, list[Any]]] = [
        ("BOOL", [True, False]), ("INT8", [-128, 127]), ("INT16", [-32768, 32767]), ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]), ("UINT8", [0, 255]), ("UINT16", [0, 65535]), ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**64 - 1]), ("FP32", [0.5, -3]), ("FP64", [0.1, 1e300]), ("BYTES", ["a", "ä"]),
    ]  # fmt: skip
    for datatype, data in good:
        yield infer(f"values of {datatype}", "types", {"inputs": [tensor(datatype, datatype, [2], data)]})
    for datatype in ("FP16", "BF16"):
        yield infer(f"{datatype} as JSON", "types", {"inputs": [tensor(datatype, datatype, [2], [0.5, 1])], "id": "r1"})
    wrong: list[tuple[str, list[Any]]] = [
        ("BOOL", [1, 0]), ("BOOL", ["true", "false"]), ("BOOL", [None, True]), ("INT8", [128, 0]), ("INT8", [1.5, 0]),
        ("INT32", [2**31, 0]), ("INT32", [1.5, 0]), ("INT32", [True, 0]), ("INT32", ["1", "2"]), ("INT32", [None, 1]),
        ("INT64", [2**63, 0]), ("UINT8", [256, 0]), ("UINT8", [-1, 0]), ("UINT32", [-1, 0]), ("UINT64", [2**64, 0]),
        ("FP32", ["1", "2"]), ("FP32", [True, 0]), ("FP32", [None, 0]), ("FP32", [1e39, 0]), ("FP64", [True, 0]),
        ("BYTES", [1, 2]), ("BYTES", [None, "a"]), ("BYTES", [True, "a"]), ("BYTES", ["a\0b", "\ud800"]),
    ]  # fmt: skip
    for datatype, data in wrong:
        yield infer(f"{datatype} of {json.dumps(data)}", "types", {"inputs": [tensor(datatype, datatype, [2], data)]})
    for literal in ("NaN", "Infinity", "-Infinity", "1e400"):
        body = json.dumps({"inputs": [tensor("FP32", "FP32", [2], [0.5, 1])]}).replace("0.5", literal)
        yield infer(f"FP32 of the literal {literal}", "types", body.encode())


def binary() -> Iterator[Case]:
    raw = np.array([1, 2], np.int32).tobytes()

    def body(name: str, document: object, tail: bytes, length: int | str | None = None, model: str = "sum") -> Case:
        head = json.dumps(document).encode()
        header = (LENGTH, str(len(head) if length is None else length))
        return infer(name, model, head + tail, header)

    def binary(name: str, size: object, datatype: str = "INT32", shape: object = (1, 2), **more: Any) -> Json:
        return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}, **more}

    good = {"inputs": [binary("A", 8), binary("B", 8)]}
    named = {**good, "id": "r1"}
    yield body("binary", good, raw * 2)
    yield body("binary with an id", named, raw * 2)
    yield body("one binary, one JSON", {"inputs": [binary("A", 8), tensor("B")]}, raw)
    yield body("binary outputs", {**good, "parameters": {"binary_data_output": True}}, raw * 2)
    yield body(
        "one binary output",
        {**good, "outputs": [{"name": "SUM", "parameters": {"binary_data": True}}, {"name": "DIFF"}]},
        raw * 2,
    )
    yield body("a header length too long", good, raw * 2, 10_000)
    yield body("a header length too short", good, raw * 2, 10)
    yield body("a header length that is no number", good, raw * 2, "abc")
    yield body("a negative header length", good, raw * 2, "-5")
    yield body("a header length with a fraction", good, raw * 2, "8.5")
    yield body("an empty header length", good, raw * 2, "")
    yield body("a header length with a plus", good, raw * 2, f"+{len(json.dumps(good))}")
    yield body("a header length of 20 digits", good, raw * 2, "9" * 20)
    yield body("a header length with a space behind it", good, raw * 2, f"{len(json.dumps(good))} ")
    yield body("binary too short", named, raw)
    yield body("binary much too short", named, b"")
    yield body("binary too long", named, raw * 3)
    yield body("a size smaller than the shape", {"inputs": [binary("A", 4), binary("B", 8)], "id": "r1"}, raw + raw[:4])
    yield body(
        "a size larger than the shape", {"inputs": [binary("A", 12), binary("B", 8)], "id": "r1"}, raw * 2 + raw[:4]
    )
    yield body("a size that is text", {"inputs": [binary("A", "8"), binary("B", 8)]}, raw * 2)
    yield body("a size that is a boolean", {"inputs": [binary("A", True), binary("B", 8)]}, raw * 2)
    yield body("a size that is null", {"inputs": [binary("A", None), binary("B", 8)]}, raw * 2)
    yield body("a size that is negative", {"inputs": [binary("A", -8), binary("B", 8)]}, raw * 2)
    yield body("a size that is a float", {"inputs": [binary("A", 8.0), binary("B", 8)]}, raw * 2)
    yield body("a size of none", {"inputs": [binary("A", 0), binary("B", 8)]}, raw)
    yield body("data and a size", {"inputs": [binary("A", 8, data=[1, 2]), binary("B", 8)]}, raw * 2)
    yield infer("a size and no header length", "sum", {"inputs": [binary("A", 8), tensor("B")], "id": "r1"})
    yield body("an input's parameters are a list", {"inputs": [binary("A", 8, parameters=[]), binary("B", 8)]}, raw * 2)
    yield body(
        "FP16 binary",
        {"inputs": [binary("FP16", 4, "FP16", [2])], "parameters": {"binary_data_output": True}},
        np.array([0.5, 1], np.float16).tobytes(),
        model="types",
    )
    yield body(
        "FP16 binary, JSON asked for",
        {"inputs": [binary("FP16", 4, "FP16", [2])], "id": "r1"},
        np.array([0.5, 1], np.float16).tobytes(),
        model="types",
    )
    yield body(
        "BF16 binary",
        {"inputs": [binary("BF16", 4, "BF16", [2])], "parameters": {"binary_data_output": True}},
        b"\x00\x3f\x80\x3f",
        model="types",
    )
    yield body(
        "BOOL binary of another number",
        {"inputs": [binary("BOOL", 2, "BOOL", [2])], "parameters": {"binary_data_output": True}},
        b"\x01\x02",
        model="types",
    )
    text = b"\x02\0\0\0ab\x00\0\0\0"
    yield body("BYTES binary", {"inputs": [binary("T", 10, "BYTES", [2])]}, text, model="text")
    yield body(
        "BYTES binary, with a length cut",
        {"inputs": [binary("T", 8, "BYTES", [2])], "id": "r1"},
        text[:8],
        model="text",
    )
    yield body(
        "BYTES binary, with an element cut",
        {"inputs": [binary("T", 5, "BYTES", [1])], "id": "r1"},
        text[:5],
        model="text",
    )
    yield body(
        "BYTES binary, too few elements", {"inputs": [binary("T", 6, "BYTES", [2])], "id": "r1"}, text[:6], model="text"
    )
    yield body(
        "BYTES binary, too many elements", {"inputs": [binary("T", 10, "BYTES", [1])], "id": "r1"}, text, model="text"
    )
    yield body(
        "BYTES that are no UTF-8, JSON asked for",
        {"inputs": [binary("T", 6, "BYTES", [1])]},
        b"\x02\0\0\0\xff\xfe",
        model="text",
    )
    yield body(
        "NaN binary, JSON asked for",
        {"inputs": [binary("X", 8, "FP32", [2, 1])]},
        np.array([np.nan, -np.inf], np.float32).tobytes(),
        model="plain",
    )
    yield body("raw binary", {}, b"", 0, model="versions")
    yield infer("raw binary of two floats", "versions", np.array([1, 2], np.float32).tobytes(), (LENGTH, "0"))
    yield infer("raw binary of seven bytes", "versions", b"1234567", (LENGTH, "0"))
    yield infer("raw binary of nothing", "versions", b"", (LENGTH, "0"))
    yield infer("raw binary to two inputs", "sum", raw, (LENGTH, "0"))
    yield infer("raw binary of text", "text", b"hello", (LENGTH, "0"))
    yield infer("raw binary to an unknown model", "missing", raw, (LENGTH, "0"))
    yield infer("raw binary of a wrong number of rows", "plain", raw[:4], (LENGTH, "0"))
    yield infer(
        "shared memory that is not there",
        "sum",
        {
            "inputs": [
                tensor("B"),
                {
                    "name": "A",
                    "datatype": "INT32",
                    "shape": [1, 2],
                    "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8},
                },
            ]
        },
    )
