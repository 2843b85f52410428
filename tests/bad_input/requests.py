"""Valid HTTP requests, each with its expected answer. Everything comes from a `random.Random`."""

from __future__ import annotations

import dataclasses
import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from tests.bad_input.answers import Answer

HOST: Final = b"host: 127.0.0.1"
BUSY: Final = frozenset({429, 503})
"""The answers of an overloaded gateway to any request; the judge counts them."""
ECHO: Final = "/v2/models/echo/infer"
ANY: Final = "/v2/models/any/infer"
TEXT: Final = "/v2/models/text/infer"
SUM: Final = "/v2/models/add_sub/infer"
LATER: Final = "/v2/models/later/infer"

Check = Callable[[Answer], str]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One request and its expected answer.

    Attributes:
        name: for reports.
        data: its bytes; `@ID@` and `@LOCATION@` stand for those in the answer before it.
        statuses: one of these; `BUSY` besides.
        check: returns the problem with an answer of status 200 or 202, "" for none.
        may_end: the gateway may end the connection with its answer, or instead of one.
        honest: it must not be refused because of others while there is room.
    """

    name: str
    data: bytes
    statuses: frozenset[int]
    check: Check | None = None
    may_end: bool = False
    honest: bool = False


def head(method: str, target: str | bytes, *fields: bytes, version: bytes = b"HTTP/1.1", host: bool = True) -> bytes:
    """Request line and headers."""
    raw = target if isinstance(target, bytes) else target.encode()
    lines = [b"%b %b %b" % (method.encode(), raw, version), *([HOST] if host else []), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(target: str | bytes, body: bytes, *fields: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """A whole request with a Content-Length."""
    return head("POST", target, b"content-length: %d" % len(body), *fields, version=version) + body


def chunked(body: bytes, dice: random.Random, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """The body in chunks of any size."""
    pieces = []
    while body:
        size = dice.choice((1, 7, 100, 5000, 100_000))
        piece, body = body[:size], body[size:]
        pieces.append(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece))
    return b"".join(pieces) + b"0%b\r\n%b\r\n" % (extension, trailers)


# --- bodies, and their expected answers ------------------------------------------------------------------------------


def echo_body(label: str, dice: random.Random) -> tuple[bytes, Check]:
    """Four numbers for the model that returns them."""
    data = [dice.randrange(-1000, 1000) / 4 for _ in range(4)]
    inputs = [{"name": "IN", "datatype": "FP32", "shape": [1, 4], "data": data}]
    return orjson.dumps({"id": label, "inputs": inputs}), _outputs(label, {"OUT": data})


def sum_body(label: str, dice: random.Random) -> tuple[bytes, Check]:
    """Two rows for the Python model that adds and subtracts them."""
    left, right = ([float(dice.randrange(-99, 99)) for _ in range(16)] for _ in range(2))
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [1, 16], "data": data}
        for name, data in (("INPUT0", left), ("INPUT1", right))
    ]
    sums = {
        "OUTPUT0": [a + b for a, b in zip(left, right, strict=True)],
        "OUTPUT1": [a - b for a, b in zip(left, right, strict=True)],
    }
    return orjson.dumps({"id": label, "inputs": inputs}), _outputs(label, sums)


def text_body(label: str, dice: random.Random) -> tuple[bytes, Check]:
    """Strings, some of them odd."""
    words = [dice.choice(("", "a", "\0", "é☃", "𐀀", "\\", '"', "x" * 100)) for _ in range(dice.randrange(1, 6))]
    inputs = [{"name": "IN", "datatype": "BYTES", "shape": [len(words)], "data": words}]
    return orjson.dumps({"id": label, "inputs": inputs}), _outputs(label, {"OUT": words})


def many_body(label: str, count: int) -> tuple[bytes, Check]:
    """`count` numbers for the model that takes any."""
    data = [float(n % 97) for n in range(count)]
    inputs = [{"name": "IN", "datatype": "FP32", "shape": [count], "data": data}]
    return orjson.dumps({"id": label, "inputs": inputs}), _outputs(label, {"OUT": data})


def _outputs(label: str, expected: dict[str, list[Any]]) -> Check:
    def check(answer: Answer) -> str:
        try:
            document = orjson.loads(answer.body)
            got = {output["name"]: output["data"] for output in document["outputs"]}
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            return f"no inference response: {error!r}"
        if document.get("id") != label:
            return f"the answer of {document.get('id')!r}"
        return "" if got == expected else f"outputs {got} instead of {expected}"[:400]

    return check


def _raw_request(label: str, datatype: str, shape: list[int], raw: bytes, path: str, *fields: bytes) -> bytes:
    document = orjson.dumps(
        {
            "id": label,
            "inputs": [{"name": "IN",
            "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
    )  # fmt: skip
    return post(path, document + raw, b"inference-header-content-length: %d" % len(document), *fields)


def _raw_output(label: str, raw: bytes) -> Check:
    def check(answer: Answer) -> str:
        length = answer.fields.get("inference-header-content-length", "")
        if not length.isdigit():
            return "no Inference-Header-Content-Length"
        if orjson.loads(answer.body[: int(length)]).get("id") != label:
            return f"another request's answer: {answer.body[:200]!r}"
        return "" if answer.body[int(length) :] == raw else "other bytes than were sent"

    return check


def empty_strings(label: str, count: int) -> Asked:
    """A BYTES tensor of empty strings: four bytes each on the wire, an object each in Python."""
    raw = bytes(4 * count)
    data = _raw_request(label, "BYTES", [count], raw, TEXT)
    return Asked(f"{count} empty strings", data, frozenset({200, 413}), _raw_output(label, raw), may_end=True)


# --- right requests --------------------------------------------------------------------------------------------------

OK: Final = frozenset({200})


def _echo(label: str, dice: random.Random) -> Asked:
    body, check = echo_body(label, dice)
    path = dice.choice((ECHO, ECHO, ECHO, "/v2/models/echo/versions/1/infer", f"{ECHO}?a=b&c"))
    return Asked("infer", post(path, body), OK, check, honest=True)


def _sum(label: str, dice: random.Random) -> Asked:
    body, check = sum_body(label, dice)
    return Asked("infer of a Python model", post(SUM, body), OK, check, honest=True)


def _text(label: str, dice: random.Random) -> Asked:
    body, check = text_body(label, dice)
    return Asked("infer of strings", post(TEXT, body), OK, check, honest=True)


def _raw(label: str, dice: random.Random) -> Asked:
    values = np.array([dice.randrange(-9, 9) for _ in range(4)], np.float32).tobytes()
    data = _raw_request(label, "FP32", [1, 4], values, ECHO)
    return Asked("infer of raw numbers", data, OK, _raw_output(label, values), honest=True)


def _chunked(label: str, dice: random.Random) -> Asked:
    body, check = dice.choice((echo_body, sum_body))(label, dice)
    path = SUM if b"INPUT0" in body else ECHO
    extension = dice.choice((b"", b"", b";a=b", b';a="b c"'))
    trailers = dice.choice((b"", b"", b"x-sum: 1\r\n"))
    data = head("POST", path, b"transfer-encoding: chunked") + chunked(body, dice, extension, trailers)
    return Asked("infer in chunks", data, OK, check, honest=True)


def _gzipped(label: str, dice: random.Random) -> Asked:
    body, check = echo_body(label, dice)
    data = post(ECHO, gzip.compress(body, 1, mtime=0), b"content-encoding: gzip")
    return Asked("infer, gzipped", data, OK, check, honest=True)


def _expecting(label: str, dice: random.Random) -> Asked:
    body, check = echo_body(label, dice)
    return Asked("infer after 100-continue", post(ECHO, body, b"expect: 100-continue"), OK, check, honest=True)


def _odd_label(label: str, dice: random.Random) -> Asked:
    label = dice.choice((f"{label}.1.2", f"☃ {label}", f"{label}" * 50, f"{label}\n\0\x1b", f"<{label}>"))
    body, check = echo_body(label, dice)
    return Asked("infer with an odd id", post(ECHO, body), OK, check, honest=True)


def _keyed(label: str, dice: random.Random) -> Asked:
    body, check = echo_body(label, dice)
    return Asked("infer with a key", post(ECHO, body, b"idempotency-key: " + label.encode()), OK, check, honest=True)


def _large(label: str, dice: random.Random) -> Asked:
    body, check = many_body(label, dice.choice((500, 500, 500, 5000, 20_000)))
    return Asked("infer of many numbers", post(ANY, body), OK, check, honest=True)


def _get(label: str, dice: random.Random) -> Asked:
    path, part = dice.choice(_DOCUMENTS)
    return Asked(f"GET {path}", head("GET", path), OK, _has(part), honest=True)


def _index(label: str, dice: random.Random) -> Asked:
    return Asked("the index", post("/v2/repository/index", b"{}"), OK, _has(b'"echo"'), honest=True)


def _has(part: bytes) -> Check:
    return lambda answer: "" if part in answer.body else f"{part!r} is not in {answer.body[:200]!r}"


_DOCUMENTS: Final = (
    ("/v2/health/live", b""), ("/v2/health/ready", b""), ("/v2", b'"penstock"'), ("/v2/models/echo", b'"echo"'),
    ("/v2/models/add_sub/config", b"max_batch_size"), ("/v2/models/echo/ready", b""), ("/v2/models/echo/stats",
    b"inference_count"),
    ("/v2/models/text/versions/1", b"BYTES"),
)  # fmt: skip
_RIGHT: Final = (
    (_echo, 48), (_sum, 5), (_text, 4), (_raw, 12), (_chunked, 8), (_gzipped, 4), (_expecting, 4), (_odd_label, 5),
    (_keyed, 1), (_large, 1), (_get, 7), (_index, 1),
)  # fmt: skip
_MAKERS: Final = [maker for maker, weight in _RIGHT for _ in range(weight)]


def right(label: str, dice: random.Random) -> Asked:
    """A request that must be answered, with its own answer."""
    return dice.choice(_MAKERS)(label, dice)


def farewell(label: str, dice: random.Random) -> Asked:
    """A valid request that ends its connection: a request smuggled in before it would be answered before it."""
    body, check = echo_body(label, dice)
    return Asked("the last infer", post(ECHO, body, b"connection: close"), OK, check, honest=True)


def keyed_twice(label: str, dice: random.Random) -> list[Asked]:
    """One key twice: one run, one answer; then the same key with another body."""
    body, check = echo_body(label, dice)
    other, _ = echo_body(label + "x", dice)
    key = b"idempotency-key: " + label.encode()
    again = Asked("the same key", post(ECHO, body, key), OK, check, honest=True)
    return [again, again, Asked("the key with another body", post(ECHO, other, key), frozenset({422}))]


# --- the models ------------------------------------------------------------------------------------------------------

_IDENTITY: Final = """\
name: "%s"
backend: "identity"
max_batch_size: %d
input [ { name: "IN" data_type: %s dims: [ %s ] } ]
output [ { name: "OUT" data_type: %s dims: [ %s ] } ]
%s
"""
_PYTHON: Final = """\
name: "add_sub"
backend: "python"
max_batch_size: 64
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }, { name: "INPUT1" data_type: TYPE_FP32 dims: [ 16 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }, { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 16 ] } ]
dynamic_batching { }
"""
_CODE: Final = """\
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            left = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            right = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            outputs = [pb_utils.Tensor("OUTPUT0", left + right), pb_utils.Tensor("OUTPUT1", left - right)]
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses
"""


def write_models(folder: Path) -> Path:
    """The models that these requests are for, as a model repository."""
    batching = "dynamic_batching { }"
    slow = "dynamic_batching { max_queue_delay_microseconds: 500000 preferred_batch_size: [ 64 ] }"
    configs = {
        "echo": _IDENTITY % ("echo", 64, "TYPE_FP32", "4", "TYPE_FP32", "4", batching),
        "any": _IDENTITY % ("any", 0, "TYPE_FP32", "-1", "TYPE_FP32", "-1", ""),
        "text": _IDENTITY % ("text", 0, "TYPE_STRING", "-1", "TYPE_STRING", "-1", ""),
        "later": _IDENTITY % ("later", 64, "TYPE_FP32", "4", "TYPE_FP32", "4", slow),
        "add_sub": _PYTHON,
    }
    for name, config in configs.items():
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
        (folder / name / "config.pbtxt").write_text(config)
    (folder / "add_sub" / "1" / "model.py").write_text(_CODE)
    return folder
