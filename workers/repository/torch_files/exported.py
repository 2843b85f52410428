"""The inputs and outputs of a torch.export program, from the JSON in its archive (`models/*.json`). Pure.

The schema is torch's `torch/_export/serde/schema.py`, major version 8 (torch 2.5 and newer); older ones differ in nothing that is
read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from protocol.errors import ConfigError, quoted
from workers.repository.completion import BackendMetadata
from workers.repository.torch_files.pytrees import names_of, spec_paths
from workers.repository.torch_files.signature import ProgramTensor, Size, metadata_of

DATATYPES: Final[dict[int, str]] = {
    1: "UINT8", 2: "INT8", 3: "INT16", 4: "INT32", 5: "INT64", 6: "FP16", 7: "FP32", 8: "FP64", 12: "BOOL", 13: "BF16",
    28: "UINT16", 34: "UINT32", 35: "UINT64",
}  # fmt: skip
"""The V2 datatype of each of the schema's `ScalarType`s that has one."""
_OTHERS: Final = {9: "complex32", 10: "complex64", 11: "complex128"} | dict.fromkeys(range(29, 34), "float8")
_SYMBOL: Final = re.compile(r"Symbol\('(\w+)'[^()]*\)|(\w+)", re.ASCII)

Json = Mapping[str, Any]


def metadata(document: Any) -> BackendMetadata:
    """Names, datatypes and shapes. Inputs have the names of forward's parameters; for outputs see `pytrees`.

    Args:
        document: the parsed JSON.

    Raises:
        ConfigError: it is not such a document, or an input or output is not a tensor that V2 can carry.
    """
    try:
        module = document["graph_module"]
        graph = _Graph(module["graph"]["tensor_values"], document.get("range_constraints") or {})
        inputs = [graph.tensor(name, name) for name in _inputs(module["signature"]["input_specs"])]
        outputs = [graph.tensor(name, value) for name, value in _outputs(module)]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ConfigError(
            f"its description of the program is of an unknown form ({type(error).__name__}: {error}); export it again with a newer "
            "torch"
        ) from None
    return metadata_of(inputs, outputs)


def _inputs(specs: list[Json]) -> Iterator[str]:
    """The tensors that a caller gives; a constant such as a flag was fixed when the program was exported."""
    for spec in specs:
        if (given := spec.get("user_input")) is None:
            continue
        argument = given["arg"]
        if "as_tensor" in argument:
            yield argument["as_tensor"]["name"]
        elif not {"as_none", "as_int", "as_float", "as_bool", "as_string"} & argument.keys():
            raise ConfigError(
                f"an input of the program is not a tensor but {_kind(argument)}, which no request can carry; export a wrapper "
                "whose forward takes tensors only"
            )


def _outputs(module: Json) -> Iterator[tuple[str, str]]:
    """The name of each output and of the graph's value; None is left out."""
    given = [spec["user_output"]["arg"] for spec in module["signature"]["output_specs"] if "user_output" in spec]
    names = output_names(module, len(given))
    for name, argument in zip(names, given, strict=True):
        if "as_tensor" in argument:
            yield name, argument["as_tensor"]["name"]
        elif "as_none" not in argument:
            raise ConfigError(
                f"output '{name}' of the program is not a tensor but {_kind(argument)}; export a wrapper whose forward returns "
                "tensors only"
            )


def output_names(module: Json, count: int) -> tuple[str, ...]:
    """The names of all leaves of the program's output, by the tree that the file states."""
    whole = next((entry["signature"] for entry in module["module_call_graph"] if entry["fqn"] == ""), None)
    paths = spec_paths(whole["out_spec"]) if whole else ()
    return names_of(paths if len(paths) == count else [(index,) for index in range(count)])


def _kind(argument: Json) -> str:
    kind = next(iter(argument), "").removeprefix("as_").replace("_", " ")
    return f"of the kind '{kind}'" if kind else "nothing"


class _Graph:
    """The values of a program's graph."""

    def __init__(self, values: Json, ranges: Json) -> None:
        self._values = values
        self._ranges = ranges

    def tensor(self, name: str, value: str) -> ProgramTensor:
        meta = self._values[value]
        datatype = DATATYPES.get(meta["dtype"])
        if datatype is None:
            raise ConfigError(
                f"'{name}' is {_OTHERS.get(meta['dtype'], 'of ScalarType ' + quoted(meta['dtype']))}, which the V2 protocol does "
                "not have; export a wrapper that converts it"
            )
        return ProgramTensor(str(name), datatype, tuple([self._size(size) for size in meta["sizes"]]))

    def _size(self, size: Json) -> Size:
        if "as_int" in size:
            return Size(int(size["as_int"]))
        match = _SYMBOL.fullmatch(size["as_expr"]["expr_str"])
        if match is None:  # computed from other sizes, such as 2*s0
            return Size()
        symbol = match[1] or match[2]
        bounds = self._ranges.get(symbol) or {}
        return Size(symbol=symbol, least=int(bounds.get("min_val") or 0), most=int(bounds.get("max_val") or 0))
