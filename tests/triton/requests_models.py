"""Infer requests whose parameters or outputs are special, and models that do something special."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.triton.case import Case, get, infer, tensor, two


def parameters() -> Iterator[Case]:
    def given(name: str, parameters: object, model: str = "sum", **more: Any) -> Case:
        body = two() if model == "sum" else {"inputs": [tensor("X", "FP32", [1, 2])]}
        return infer(name, model, {**body, "parameters": parameters, **more})

    yield given("parameters are a list", [])
    yield given("parameters are null", None)
    yield given("parameters are text", "a")
    yield given("own parameters", {"a": 1, "b": "t", "c": True, "d": 1.5})
    yield given("a parameter that is null", {"a": None}, id="r1")
    yield given("a parameter that is a list", {"a": [1]}, id="r1")
    yield given("a parameter that is an object", {"a": {}}, id="r1")
    yield given("a reserved parameter", {"triton_x": 1}, id="r1")
    yield given("a parameter of 2^64", {"a": 2**64})
    yield given("a parameter of 2^63", {"a": 2**63})
    for key in ("sequence_start", "sequence_end"):
        for value in (True, 1, 0, "true", None, 1.0, []):
            yield given(f"{key} is {json.dumps(value)}", {key: value}, id="r1")
    for value in (0, 5, "five", "", True, 1.5, -1, None, []):
        yield given(f"sequence_id is {json.dumps(value)}", {"sequence_id": value}, id="r1")
    for key in ("priority", "timeout"):
        for value in (0, 1, 2, 9, 9 * 10**6, "1", True, 1.5, -1, None, 2**64):
            if key == "priority" or value not in (1, 2, 9) or value is True:  # a timeout of 1 µs may pass or not
                yield given(f"{key} is {json.dumps(value)}", {key: value}, "priority", id="r1")
    for value in (True, False, 1, "true", None):
        yield given(f"binary_data_output is {json.dumps(value)}", {"binary_data_output": value}, id="r1")


def outputs() -> Iterator[Case]:
    def wanted(name: str, outputs: object, **more: Any) -> Case:
        return infer(name, "sum", two(outputs=outputs, **more))

    yield wanted("one output", [{"name": "SUM"}])
    yield wanted("both outputs reversed", [{"name": "DIFF"}, {"name": "SUM"}])
    yield wanted("no outputs", [])
    yield wanted("outputs are null", None)
    yield wanted("outputs are an object", {})
    yield wanted("outputs are names", ["SUM"])
    yield wanted("an output without a name", [{}])
    yield wanted("an output's name is a number", [{"name": 3}])
    yield wanted("an unknown output", [{"name": "W"}], id="r1")
    yield wanted("an unknown output and no id", [{"name": "W"}])
    yield wanted("a known and an unknown output", [{"name": "SUM"}, {"name": "W"}])
    yield wanted("an output twice", [{"name": "SUM"}, {"name": "SUM"}], id="r1")
    yield wanted("an output twice and no id", [{"name": "SUM"}, {"name": "SUM"}])
    yield wanted(
        "an output twice, binary first", [{"name": "SUM", "parameters": {"binary_data": True}}, {"name": "SUM"}]
    )
    yield wanted(
        "an output twice, binary second", [{"name": "SUM"}, {"name": "SUM", "parameters": {"binary_data": True}}]
    )
    for value in (1, "true", None):
        yield wanted(
            f"binary_data is {json.dumps(value)}", [{"name": "SUM", "parameters": {"binary_data": value}}], id="r1"
        )
    yield wanted("an output's parameters are a list", [{"name": "SUM", "parameters": []}])
    yield wanted("an unknown parameter of an output", [{"name": "SUM", "parameters": {"a": 1}}])
    yield wanted("classification", [{"name": "SUM", "parameters": {"classification": 1}}])
    yield wanted("classification of text", [{"name": "SUM", "parameters": {"classification": "1"}}])
    yield infer(
        "an unknown output listed, JSON wanted by default",
        "sum",
        two(outputs=[{"name": "SUM"}], parameters={"binary_data_output": True}),
    )


def models() -> Iterator[Case]:
    def behaves(mode: str, name: str = "", **more: Any) -> Case:
        return infer(
            name or f"the model: {mode}", "behaves", {"inputs": [tensor("MODE", "BYTES", [1], [mode])], **more}
        )

    for mode in (
        "raises:broken weights", "raises_nothing", "raises_own:mine", "raises_lines", "raises_chained", "raises_triton:said so",
        "error:said so", "error_empty", "error_with_outputs", "nothing", "two", "no_list", "wrong_kind",
        "only_y", "no_outputs", "unknown_output", "twice", "reversed_order", "wrong_dtype",
        "wrong_shape", "scalar", "empty", "values:0.1:-0.0:3", "values:nan", "values:inf:-inf",
        "values:16777217:1e-45:3.4e38", "not_utf8",
        "control", "strings", "strided",
    ):  # fmt: skip
        yield behaves(mode)
    codes = (
        "UNKNOWN",
        "INTERNAL",
        "NOT_FOUND",
        "INVALID_ARG",
        "UNAVAILABLE",
        "UNSUPPORTED",
        "ALREADY_EXISTS",
        "CANCELLED",
    )
    for code in codes:
        yield behaves(f"error_code:{code}:said so")
    yield behaves("raises:broken weights", "the model raises, with an id", id="r1")
    yield behaves("error:said so", "the model answers an error, with an id", id="r1")
    yield behaves("two", "the model answers two, with an id", id="r1")
    yield behaves("only_y", "an output left out that is asked for", outputs=[{"name": "Z"}], id="r1")
    yield behaves("only_y", "an output left out of two asked for", outputs=[{"name": "Y"}, {"name": "Z"}])
    yield behaves("unknown_output", "an unknown output of the model asked for", outputs=[{"name": "W"}])
    binary = [{"name": "Y", "parameters": {"binary_data": True}}, {"name": "Z", "parameters": {"binary_data": True}}]
    yield behaves("values:nan:inf", "NaN and Infinity as binary", outputs=binary)
    yield behaves("not_utf8", "bytes that are no UTF-8 as binary", outputs=binary)
    yield behaves("scalar", "a scalar as binary", outputs=binary)
    yield behaves("empty", "an empty output as binary", outputs=binary)
    yield infer("the model imports from its own folder", "relative", {"inputs": [tensor("X", "FP32", [2])]})
    yield infer("a model without inputs", "noinputs", {"inputs": []})
    yield infer("a model without inputs, no inputs key", "noinputs", {})
    yield infer("a model without inputs gets one", "noinputs", {"inputs": [tensor("X", "FP32", [2])], "id": "r1"})
    yield infer("a model without outputs", "nooutputs", {"inputs": [tensor("X", "FP32", [2])]})
    yield infer(
        "a model without outputs, one asked for",
        "nooutputs",
        {"inputs": [tensor("X", "FP32", [2])], "outputs": [{"name": "Y"}]},
    )
    yield infer("a model without inputs and outputs", "neither", {"inputs": []})
    yield get("statistics after one call", "/v2/models/relative/stats")
    yield infer("a completed model", "completed", {"inputs": [tensor("X", "FP32", [1, 2])]})


def unanswered() -> Iterator[Case]:
    """What Triton does not survive; the last ones, for nothing is answered behind them."""
    yield infer("the model returns None", "behaves", {"inputs": [tensor("MODE", "BYTES", [1], ["none"])]})
    yield infer("a size of 2^40", "sum", {"inputs": [tensor("A", shape=[1, 2**40]), tensor("B")]})
