"""Requests for routes, and infer requests that are all JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.triton.case import Case, get, infer, tensor, two


def endpoints() -> Iterator[Case]:
    yield get("live", "/v2/health/live")
    yield get("server metadata with a slash", "/v2/")
    yield get("no such route", "/v2/nothing")
    yield get("the root", "/")
    yield Case("wrong method on health", "POST", "/v2/health/live")
    yield get("wrong method on infer", "/v2/models/sum/infer")
    yield get("metadata", "/v2/models/sum")
    yield get("metadata of a version", "/v2/models/versions/versions/1")
    yield get("metadata of all versions", "/v2/models/versions")
    yield get("metadata of a model that does not batch", "/v2/models/plain")
    yield get("metadata of a completed model", "/v2/models/completed")
    yield get("metadata of a model without inputs", "/v2/models/noinputs")
    yield get("metadata of an unknown model", "/v2/models/missing")
    yield get("metadata of an unknown version", "/v2/models/sum/versions/7")
    yield get("metadata of a model that is not loaded", "/v2/models/broken")
    yield get("metadata of a version that is no number", "/v2/models/sum/versions/one")
    yield get("metadata of version zero", "/v2/models/sum/versions/0")
    yield get("metadata of a version of 30 digits", f"/v2/models/sum/versions/{'9' * 30}")
    yield get("ready", "/v2/models/sum/ready")
    yield get("ready of a version", "/v2/models/versions/versions/3/ready")
    yield get("ready of an unknown model", "/v2/models/missing/ready")
    yield get("ready of an unknown version", "/v2/models/sum/versions/7/ready")
    yield get("ready of a model that is not loaded", "/v2/models/broken/ready")
    yield get("config", "/v2/models/sum/config")
    yield get("config of a completed model", "/v2/models/completed/config")
    yield get("config of optional inputs", "/v2/models/halfoptional/config")
    yield get("config of priorities", "/v2/models/priority/config")
    yield get("config of an unknown model", "/v2/models/missing/config")
    yield get("config of an unknown version", "/v2/models/sum/versions/7/config")
    yield get("config of a model that is not loaded", "/v2/models/broken/config")
    yield get("statistics of an unknown model", "/v2/models/missing/stats")
    yield get("statistics of an unknown version", "/v2/models/sum/versions/7/stats")
    yield get("statistics of a model that is not loaded", "/v2/models/broken/stats")
    yield Case("index", "POST", "/v2/repository/index")
    yield Case("index of what is ready", "POST", "/v2/repository/index", b'{"ready":true}')
    yield Case("index with a body that is no JSON", "POST", "/v2/repository/index", b"{")
    yield infer("infer of an unknown model", "missing", two())
    yield infer("infer of an unknown model with an id", "missing", two(id="r1"))
    yield infer("infer of an unknown version", "sum/versions/7", two(id="r1"))
    yield infer("infer of a version that is no number", "sum/versions/one", two())
    yield infer("infer of version zero", "sum/versions/0", two())
    yield infer("infer of a version of 30 digits", f"sum/versions/{'9' * 30}", two())
    yield infer("infer of a model that is not loaded", "broken", {"inputs": [tensor("X", "FP32", [2])], "id": "r1"})
    yield infer("infer of version 1", "versions/versions/1", {"inputs": [tensor("X", "FP32", [2])]})
    yield infer("infer of the newest version", "versions", {"inputs": [tensor("X", "FP32", [2])]})


def inputs() -> Iterator[Case]:
    yield infer("good", "sum", two())
    yield infer("good with an id", "sum", two(id="r1"))
    yield infer("an empty id", "sum", two(id=""))
    yield infer("nested data", "sum", {"inputs": [tensor("A", data=[[1, 2]]), tensor("B", data=[[3, 4]])]})
    yield infer("four rows", "sum", {"inputs": [tensor(n, shape=[4, 2], data=[1] * 8) for n in "AB"]})
    yield infer("inputs in another order", "sum", {"inputs": [tensor("B", data=[5, 6]), tensor("A")]})
    yield infer("an empty body", "sum", b"")
    yield infer("a body that is no JSON", "sum", b"{")
    yield infer("a body that is text", "sum", b"hello")
    yield infer("a body that is a list", "sum", [])
    yield infer("a body that is a number", "sum", 3)
    yield infer("an empty object", "sum", {})
    yield infer("inputs is null", "sum", {"inputs": None})
    yield infer("inputs is an object", "sum", {"inputs": {}})
    yield infer("inputs is empty", "sum", {"inputs": []})
    yield infer("inputs is empty, with an id", "sum", {"inputs": [], "id": "r1"})
    yield infer("an input is null", "sum", {"inputs": [None]})
    yield infer("an input is a string", "sum", {"inputs": ["A"]})
    yield infer("an input without a name", "sum", {"inputs": [{"shape": [1, 2], "datatype": "INT32", "data": [1, 2]}]})
    yield infer("a name that is a number", "sum", {"inputs": [{**tensor("A"), "name": 3}, tensor("B")]})
    yield infer("an empty name", "sum", {"inputs": [tensor(""), tensor("B")]})
    yield infer("an input without a datatype", "sum", {"inputs": [{"name": "A", "shape": [1, 2], "data": [1, 2]}]})
    yield infer("a datatype that is a number", "sum", {"inputs": [{**tensor("A"), "datatype": 3}]})
    yield infer("an unknown datatype", "sum", {"inputs": [tensor("A", "INT33"), tensor("B")], "id": "r1"})
    yield infer("a datatype in small letters", "sum", {"inputs": [tensor("A", "int32"), tensor("B")]})
    yield infer("an input without a shape", "sum", {"inputs": [{"name": "A", "datatype": "INT32", "data": [1, 2]}]})
    yield infer("a shape that is a number", "sum", {"inputs": [tensor("A", shape=2), tensor("B")]})
    yield infer("a shape of strings", "sum", {"inputs": [tensor("A", shape=["1", "2"]), tensor("B")]})
    yield infer("a shape of floats", "sum", {"inputs": [tensor("A", shape=[1.0, 2.0]), tensor("B")]})
    yield infer("a shape of booleans", "sum", {"inputs": [tensor("A", shape=[True, 2]), tensor("B")]})
    yield infer("a negative size", "sum", {"inputs": [tensor("A", shape=[-1, 2]), tensor("B")], "id": "r1"})
    yield infer("a size of 2^63", "sum", {"inputs": [tensor("A", shape=[1, 2**63]), tensor("B")]})
    yield infer("sizes whose product is 2^64", "sum", {"inputs": [tensor("A", shape=[2**32, 2**32]), tensor("B")]})
    yield infer("an empty shape", "sum", {"inputs": [tensor("A", shape=[], data=[1]), tensor("B")]})
    yield infer("a missing input", "sum", {"inputs": [tensor("A")]})
    yield infer("a missing input, with an id", "sum", {"inputs": [tensor("A")], "id": "r1"})
    yield infer("an unknown input", "sum", {"inputs": [tensor("A"), tensor("C")], "id": "r1"})
    yield infer("an extra input", "sum", {"inputs": [tensor("A"), tensor("B"), tensor("C")], "id": "r1"})
    yield infer("an input twice", "sum", {"inputs": [tensor("A"), tensor("A")], "id": "r1"})
    yield infer("an input twice and both", "sum", {"inputs": [tensor("A"), tensor("B"), tensor("A")]})
    yield infer("a wrong datatype", "sum", {"inputs": [tensor("A", "FP32"), tensor("B")], "id": "r1"})
    yield infer("a wrong datatype and no id", "sum", {"inputs": [tensor("A", "FP32"), tensor("B")]})
    yield infer("a wrong size", "sum", {"inputs": [tensor("A", shape=[1, 3], data=[1, 2, 3]), tensor("B")]})
    yield infer(
        "a wrong size, with an id",
        "sum",
        {"inputs": [tensor("A", shape=[1, 3], data=[1, 2, 3]), tensor("B")], "id": "r1"},
    )
    yield infer("no batch dimension", "completed", {"inputs": [tensor("X", "FP32", [2])]})
    yield infer("a dimension too much", "sum", {"inputs": [tensor("A", shape=[1, 1, 2]), tensor("B")]})
    yield infer(
        "rows that differ", "sum", {"inputs": [tensor("A", shape=[2, 2], data=[1] * 4), tensor("B")], "id": "r1"}
    )
    yield infer("five rows", "sum", {"inputs": [tensor(n, shape=[5, 2], data=[1] * 10) for n in "AB"], "id": "r1"})
    yield infer("five rows and no id", "sum", {"inputs": [tensor(n, shape=[5, 2], data=[1] * 10) for n in "AB"]})
    yield infer("no rows", "sum", {"inputs": [tensor(n, shape=[0, 2], data=[]) for n in "AB"], "id": "r1"})
    yield infer("no elements", "types", {"inputs": [tensor("FP32", "FP32", [0], [])]})
    yield infer("a shape that the model does not have", "plain", {"inputs": [tensor("X", "FP32", [3, 1], [1, 2, 3])]})
    yield infer("a missing dimension", "plain", {"inputs": [tensor("X", "FP32", [2], [1, 2])], "id": "r1"})
    yield infer("an open size", "plain", {"inputs": [tensor("X", "FP32", [2, 3], [1, 2, 3, 4, 5, 6])]})
    yield infer("an open size of none", "plain", {"inputs": [tensor("X", "FP32", [2, 0], [])]})
    yield infer("no data", "sum", {"inputs": [{"name": "A", "shape": [1, 2], "datatype": "INT32"}, tensor("B")]})
    yield infer(
        "no data, with an id", "sum", {"inputs": [{"name": "A", "shape": [1, 2], "datatype": "INT32"}], "id": "r1"}
    )
    yield infer("data is null", "sum", {"inputs": [tensor("A", data=None), tensor("B")]})
    yield infer("data is a number", "sum", {"inputs": [tensor("A", data=3), tensor("B")]})
    yield infer("data is a string", "sum", {"inputs": [tensor("A", data="12"), tensor("B")]})
    yield infer("data is an object", "sum", {"inputs": [tensor("A", data={"a": 1}), tensor("B")]})
    yield infer("too few values", "sum", {"inputs": [tensor("A", data=[1]), tensor("B")], "id": "r1"})
    yield infer("too many values", "sum", {"inputs": [tensor("A", data=[1, 2, 3]), tensor("B")], "id": "r1"})
    yield infer("no values", "sum", {"inputs": [tensor("A", data=[]), tensor("B")]})
    yield infer("no values of BYTES", "text", {"inputs": [tensor("T", "BYTES", [1], [])]})
    yield infer("ragged data", "sum", {"inputs": [tensor("A", data=[[1], 2]), tensor("B")]})
    yield infer("no inputs, all optional", "alloptional", {"inputs": []})
    yield infer("no inputs key, all optional", "alloptional", {})
    yield infer("no inputs, all optional, of a model that batches", "optional", {"inputs": []})
    yield infer("one of two optional inputs", "optional", {"inputs": [tensor("A", shape=[1, 1], data=[1])]})
    yield infer("the optional input missing", "halfoptional", {"inputs": [tensor("A", shape=[1, 1], data=[1])]})
    yield infer(
        "the needed input missing", "halfoptional", {"inputs": [tensor("B", shape=[1, 1], data=[1])], "id": "r1"}
    )
    yield infer("no inputs, one optional", "halfoptional", {"inputs": []})
    yield infer(
        "too many inputs, some optional",
        "halfoptional",
        {"inputs": [tensor(n, shape=[1, 1], data=[1]) for n in "ABC"], "id": "r1"},
    )
    yield infer(
        "an unknown input, some optional", "halfoptional", {"inputs": [tensor(n, shape=[1, 1], data=[1]) for n in "AC"]}
    )
    yield infer("unknown inputs only, all optional", "alloptional", {"inputs": [tensor("C", shape=[1], data=[1])]})
    yield infer("an id that is a number", "sum", two(id=5))
    yield infer("an id that is null", "sum", two(id=None))
    yield infer("an id that is a list", "sum", two(id=[]))
    yield infer("an unknown key", "sum", two(more=1))
    yield infer("a key twice", "sum", b'{"id":"a","id":"b",' + json.dumps(two()).encode()[1:])
    yield infer(
        "a wrong shape behind an id of 100 letters", "plain", {"inputs": [tensor("X", "FP32", [2])], "id": "i" * 100}
    )
