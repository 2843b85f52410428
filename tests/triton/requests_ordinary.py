"""What clients really send: every datatype in every form, batches, ids, chosen outputs, compression, generate."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.triton.case import (
    LENGTH,
    Case,
    Json,
    RpcCase,
    described,
    get,
    infer,
    post,
    rpc_infer,
    tensor,
    two,
)

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True], "UINT8": [0, 7, 255], "UINT16": [0, 7, 65535], "UINT32": [0, 7, 2**32 - 1],
    "UINT64": [0, 7, 2**64 - 1], "INT8": [-128, 0, 127], "INT16": [-32768, 0, 32767], "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 0, 2**63 - 1], "FP32": [0.5, -1.25, 3], "FP64": [0.1, -1e300, 3], "BYTES": ["a", "", "text"],
    "FP16": [0.5, -1.25, 3],
}  # fmt: skip
KINDS = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1", "INT16": "i2", "INT32": "i4",
    "INT64": "i8", "FP32": "f4", "FP64": "f8", "FP16": "f2",
}  # fmt: skip
CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
BINARY = {"binary_data_output": True}


def raw_of(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(len(value.encode()).to_bytes(4, "little") + value.encode() for value in values)
    return np.array(values, KINDS[datatype]).tobytes()


def ordinary() -> Iterator[Case | RpcCase]:
    yield from datatypes()
    yield from rpc_datatypes()
    yield from batches()
    yield from requests()
    yield from compressed()
    yield from generated()


def datatypes() -> Iterator[Case]:
    """Each of one, two and three elements, in as JSON or binary, out as JSON or binary."""
    for datatype, all_values in VALUES.items():
        for count in (1, 3):
            values = all_values[:count]
            for into in ("JSON", "binary"):
                for out in ("JSON", "binary"):
                    if datatype == "FP16" and "JSON" in (into, out):
                        continue
                    name = f"{count} of {datatype} in as {into}, out as {out}"
                    yield _typed(name, datatype, values, binary_in=into == "binary", binary_out=out == "binary")
        if datatype != "FP16":
            yield infer(
                f"{datatype} with an output asked for", "types",
                {"inputs": [tensor(datatype, datatype, [2], all_values[:2])], "outputs": [{"name": f"OUT_{datatype}"}]},
            )  # fmt: skip


def _typed(name: str, datatype: str, values: list[Any], *, binary_in: bool, binary_out: bool) -> Case:
    body: Json = {"parameters": BINARY} if binary_out else {}
    if not binary_in:
        return infer(name, "types", body | {"inputs": [tensor(datatype, datatype, [len(values)], values)]})
    raw = raw_of(datatype, values)
    entry = {
        "name": datatype,
        "datatype": datatype,
        "shape": [len(values)],
        "parameters": {"binary_data_size": len(raw)},
    }
    return binary(name, "types", body | {"inputs": [entry]}, raw)


def binary(name: str, model: str, document: Json, raw: bytes, *headers: tuple[str, str]) -> Case:
    head = json.dumps(document).encode()
    return infer(name, model, head + raw, (LENGTH, str(len(head))), *headers)


def rpc_datatypes() -> Iterator[RpcCase]:
    for datatype, all_values in VALUES.items():
        for count in (1, 3):
            values = all_values[:count]
            entry = described(datatype, datatype, (count,))
            yield rpc_infer(f"{count} of {datatype} as raw contents", "types", [entry], raw_of(datatype, values))
            if datatype in CONTENTS:
                given = [value.encode() for value in values] if datatype == "BYTES" else values
                contents = {CONTENTS[datatype]: given}
                yield rpc_infer(f"{count} of {datatype} as contents", "types", [entry | {"contents": contents}])


def batches() -> Iterator[Case | RpcCase]:
    for rows in (1, 2, 3, 4):
        data = list(range(2 * rows))
        shape = [rows, 2]
        raw = np.array(data, np.int32).tobytes()
        inputs = [tensor(name, shape=shape, data=data) for name in "AB"]
        yield infer(f"a batch of {rows}", "sum", {"inputs": inputs})
        yield infer(f"a batch of {rows}, its sum alone", "sum", {"inputs": inputs, "outputs": [{"name": "SUM"}]})
        entries = [
            {"name": name, "datatype": "INT32", "shape": shape, "parameters": {"binary_data_size": len(raw)}}
            for name in "AB"
        ]
        yield binary(f"a binary batch of {rows}", "sum", {"inputs": entries, "parameters": BINARY}, raw * 2)
        yield binary(f"a binary batch of {rows}, JSON out", "sum", {"inputs": entries}, raw * 2)
        named = [described(name, shape=(rows, 2)) for name in "AB"]
        yield rpc_infer(f"a batch of {rows}", "sum", named, raw, raw)
        yield rpc_infer(f"a batch of {rows}, its sum alone", "sum", named, raw, raw, outputs=[{"name": "SUM"}])
    for columns in (1, 2, 7, 100):
        data = [0.5 * number for number in range(2 * columns)]
        yield infer(f"an open size of {columns}", "plain", {"inputs": [tensor("X", "FP32", [2, columns], data)]})
        raw = np.array(data, np.float32).tobytes()
        yield rpc_infer(f"an open size of {columns}", "plain", [described("X", "FP32", (2, columns))], raw)
    for count, text in ((1, "hello"), (2, "Grüße"), (3, "日本"), (1, "a" * 5000), (2, '"\\\n\t')):
        texts = [text] * count
        yield infer(f"{count} of the text {text[:9]!r}", "text", {"inputs": [tensor("T", "BYTES", [count], texts)]})
        raw = raw_of("BYTES", texts)
        yield rpc_infer(f"{count} of the text {text[:9]!r}", "text", [described("T", "BYTES", (count,))], raw)


def requests() -> Iterator[Case]:
    """Ids, parameters, outputs in the forms that client libraries give them."""
    for label in ("1", "a-long-request-id-0123456789", "with spaces and ünicode", "0"):
        yield infer(f"the id {label!r}", "sum", two(id=label))
    sum_only, both = [{"name": "SUM"}], [{"name": "SUM"}, {"name": "DIFF"}]
    as_binary = [
        {"name": "SUM", "parameters": {"binary_data": True}},
        {"name": "DIFF", "parameters": {"binary_data": True}},
    ]
    as_json = [{"name": "SUM", "parameters": {"binary_data": False}}]
    yield infer("both outputs", "sum", two(outputs=both))
    yield infer("both outputs as binary", "sum", two(outputs=as_binary))
    yield infer("an output as JSON", "sum", two(outputs=as_json))
    yield infer("an output, and binary by default", "sum", two(outputs=sum_only, parameters=BINARY))
    yield infer("all outputs binary by default, an id", "sum", two(id="7", parameters=BINARY))
    yield infer("a known version", "sum/versions/1", two())
    yield infer(
        "priority and timeout",
        "priority",
        {"inputs": [tensor("X", "FP32", [1, 2])], "parameters": {"priority": 2, "timeout": 8 * 10**6}},
    )
    for value in (1, 0, -1, 2**40, "text", "", True, False, 0.5):
        yield infer(f"a parameter of {value!r}", "sum", two(parameters={"mine": value}))
    yield infer("ten parameters", "sum", two(parameters={f"key{n}": n for n in range(10)}))
    for name in ("alloptional", "optional", "halfoptional"):
        shape = [1] if name == "alloptional" else [1, 1]
        yield infer(f"both inputs of {name}", name, {"inputs": [tensor(n, shape=shape, data=[5]) for n in "AB"]})
    yield infer("a version of two", "versions/versions/1", {"inputs": [tensor("X", "FP32", [3], [1, 2, 3])]})
    yield infer("the other version of two", "versions/versions/3", {"inputs": [tensor("X", "FP32", [3], [1, 2, 3])]})
    yield infer("a content type of JSON", "sum", two(), ("Content-Type", "application/json"))
    yield infer("a content type of bytes", "sum", two(), ("Content-Type", "application/octet-stream"))
    yield infer("an accepted type", "sum", two(), ("Accept", "application/json"))
    yield infer("a trace header", "sum", two(), ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"))
    for name in ("sum", "plain", "types", "text", "priority", "optional", "noinputs", "versions"):
        yield get(f"ready of {name}", f"/v2/models/{name}/ready")
        if name not in ("sum", "versions"):
            yield get(f"metadata of {name}", f"/v2/models/{name}")
        if name not in ("sum", "priority"):
            yield get(f"config of {name}", f"/v2/models/{name}/config")
    yield get("server ready", "/v2/health/ready")
    yield get("metadata of version 3 of two", "/v2/models/versions/versions/3")
    yield get("config of version 1 of two", "/v2/models/versions/versions/1/config")


def compressed() -> Iterator[Case]:
    plain = json.dumps(two(id="7")).encode()
    yield infer("gzip", "sum", gzip.compress(plain, mtime=0), ("Content-Encoding", "gzip"))
    yield infer("deflate", "sum", zlib.compress(plain), ("Content-Encoding", "deflate"))
    yield infer("identity", "sum", plain, ("Content-Encoding", "identity"))
    yield infer("an encoding that nobody knows", "sum", plain, ("Content-Encoding", "br"))
    yield infer("gzip that is none", "sum", plain, ("Content-Encoding", "gzip"))
    yield infer("accepts gzip for few bytes", "sum", plain, ("Accept-Encoding", "gzip"))
    values = [number % 100 for number in range(4000)]
    large = json.dumps({"inputs": [tensor("X", "FP32", [4000], values)]}).encode()
    for accepted in (
        "gzip", "deflate", "identity", "gzip, deflate", "deflate, gzip", "gzip;q=0.5, deflate;q=0.9", "br", "*", "gzip;q=0",
    ):  # fmt: skip
        yield infer(f"accepts {accepted}", "versions", large, ("Accept-Encoding", accepted))
    raw = np.array(values, np.float32).tobytes()
    entry = {"name": "X", "datatype": "FP32", "shape": [4000], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [entry], "parameters": BINARY}).encode()
    pack = {"gzip": gzip.compress(head + raw, mtime=0), "deflate": zlib.compress(head + raw)}
    for encoding, body in pack.items():
        yield infer(
            f"binary both ways in {encoding}", "versions", body, (LENGTH, str(len(head))),
            ("Content-Encoding", encoding), ("Accept-Encoding", encoding),
        )  # fmt: skip


def generated() -> Iterator[Case]:
    def generate(name: str, model: str, body: object, route: str = "generate") -> Case:
        return post(f"{route}: {name}", f"/v2/models/{model}/{route}", body)

    for route in ("generate", "generate_stream"):
        yield generate("a text", "text", {"T": "hello"}, route)
        yield generate("texts", "text", {"T": ["a", "b"]}, route)
        yield generate("an id and a parameter", "text", {"T": "a", "id": "7", "mine": 3}, route)
        yield generate("parameters", "text", {"T": "a", "parameters": {"mine": 3}}, route)
        yield generate("a missing input", "text", {}, route)
        yield generate("a wrong type", "text", {"T": 5}, route)
        yield generate("no JSON", "text", b"{", route)
        yield generate("an unknown model", "missing", {"T": "a"}, route)
        yield generate("numbers", "versions", {"X": [1, 2.5]}, route)
        yield generate("a number", "versions", {"X": 1.5}, route)
        yield generate("parameters that are none", "text", {"T": "a", "parameters": 3}, route)
        yield generate("the model fails", "behaves", {"MODE": "raises:broken weights"}, route)
        yield generate("rows", "sum", {"A": [1, 2], "B": [3, 4]}, route)
