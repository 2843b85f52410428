"""What to do about an error of onnxruntime or PyTorch, by its text. Pure.

Their texts say what failed inside the library; a cure says what somebody with the file in hand can do. The tests provoke each error
in the installed libraries, so that a new wording is noticed.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

SEARCHED: Final = 20_000
"""Characters at each end of a text that are searched."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Cure:
    """What to do about texts in which the pattern is found; `{name}` stands for the pattern's group of that name."""

    pattern: re.Pattern[str]
    advice: str


def _cure(pattern: str, advice: str) -> _Cure:
    return _Cure(re.compile(pattern), advice)


_NOT_WHOLE: Final = (
    "the file is not a whole model of this format: compare its size with the original's, and copy or export it again"
)
_OWN_LIBRARY: Final = (
    "export the model without it (without the tokenizer or the image decoder, for example), or run the file in a model.py of your "
    "own, which can load that library: penstock new NAME"
)
_ONE_FILE: Final = "or write one file: onnx.save(onnx.load(FILE), 'one.onnx')"

_ONNXRUNTIME: Final = (
    _cure(
        r"Unsupported model IR version: \d+, max supported IR version: (?P<n>\d+)",
        "the file was written by a newer onnx than this onnxruntime knows: pip install -U onnxruntime; or rewrite it: "
        "m = onnx.load(FILE); m.ir_version = {n}; onnx.save(m, FILE)",
    ),
    _cure(
        r"support for domain (?P<domain>\S+) is till opset (?P<n>\d+)",
        "export it again with opset {n} of {domain} (opset_version={n} of torch.onnx.export, target_opset of skl2onnx), or pip "
        "install -U onnxruntime",
    ),
    _cure(
        r"No Op registered for (?P<op>\w+) with domain_version",
        "this onnxruntime has no operator {op} in the opset that the file names: pip install -U onnxruntime, or export it again "
        "with another opset",
    ),
    _cure(
        r"com\.microsoft[\w.]*:(?P<op>\w+)\(-?\d+\) is not a registered function/op",
        "{op} is an operator of other builds of onnxruntime: pip install -U onnxruntime, or export the model without that "
        "optimisation",
    ),
    _cure(
        r"ai\.onnx\.contrib:(?P<op>\w+)\(-?\d+\) is not a registered function/op",
        f"{{op}} is an operator of the library onnxruntime-extensions, which Penstock does not load: {_OWN_LIBRARY}",
    ),
    _cure(
        r"(?P<domain>[\w.]+):(?P<op>\w+)\(-?\d+\) is not a registered function/op",
        f"{{op}} is a custom operator (domain {{domain}}) from a library that Penstock does not load: {_OWN_LIBRARY}",
    ),
    _cure(
        r"No opset import for domain '(?P<domain>[^']*)'",
        "the file uses operators of the domain {domain} without naming its version, so it was edited or exported wrongly: export "
        "it again, or m = onnx.load(FILE); m.opset_import.append(onnx.helper.make_opsetid('{domain}', 1)); onnx.save(m, FILE)",
    ),
    _cure(
        r"(Could not find an implementation|Failed to find kernel) for (?P<op>\w+)\(",
        "onnxruntime cannot run {op} with these datatypes on this device, which often happens with FP16, BF16, INT8 and INT4 on "
        "the CPU: export the model with FP32, or pip install -U onnxruntime",
    ),
    _cure(
        r"layout == 1",
        "onnxruntime runs recurrent operators only with the sequence in front: export it again with layout 0",
    ),
    _cure(
        r"tensor\(complex(64|128)\)",
        "onnxruntime has no complex numbers: export a wrapper that takes and returns real and imaginary parts, such as "
        "torch.view_as_real",
    ),
    _cure(
        r"Absolute path not allowed for external data|[Ee]xternal data path.*(escapes|outside)",
        "the file names its weights by a path outside its own folder; where that path is right, write one file: "
        "onnx.save(onnx.load(FILE), 'one.onnx')",
    ),
    _cure(
        r"External data path does not exist: \"?[^\"\n]*?(?P<name>[^/\"\n]+)\"?(\n|$)",
        f"the model's weights are in a second file: put '{{name}}' beside the model under that name, {_ONE_FILE}",
    ),
    _cure(
        r"External data path|[Ee]xternal initializer: .*out of bounds|external data",
        "the model's weights are in a second file, which is not the one that was exported with it: copy both again, "
        f"{_ONE_FILE}",
    ),
    _cure(
        r"Failed to construct locale with name:(?P<name>[\w.@-]+)",
        "the model changes the case of texts in the locale {name}, which this machine lacks: apt-get install locales-all on "
        "Debian and Ubuntu, or localedef -i {name} -f UTF-8 {name}",
    ),
    _cure(r"Protobuf parsing failed|No graph was found in the protobuf", _NOT_WHOLE),
    _cure(
        r"Type Error: |This is an invalid model|INVALID_GRAPH|Duplicate definition",
        "the file contradicts itself: onnx.checker.check_model(FILE, full_check=True) says where; export it again",
    ),
)
_TORCH: Final = (
    _cure(
        r"(similar ops to|failed to resolve torch\.ops\.|[Uu]nknown builtin op:) ?(?P<op>\w+(::|\.)\w+)",
        "the model needs the operator {op}, which comes from a package that Penstock does not import: export the model without it "
        "(do that step in the caller), or load the file in a model.py of your own that imports the package: penstock new NAME",
    ),
    _cure(
        r"maximum supported version for reading is|Serialized schema version .{0,200} does not match",
        "the file was saved by another version of torch: pip install -U torch, or export it again with the version that is "
        "installed here",
    ),
    _cure(r"PytorchStreamReader failed|failed reading zip archive|failed finding central directory", _NOT_WHOLE),
)
_DEVICES: Final = (
    _cure(
        r"torch\.cuda\.is_available\(\) is False|not compiled with CUDA|no NVIDIA driver|driver version is insufficient"
        r"|no CUDA-capable device|CUDA_ERROR_NO_DEVICE|cudaErrorInsufficientDriver|no kernel image is available",
        "the GPU cannot be used: `nvidia-smi` must list it, with a driver as new as the CUDA of the installed package; `penstock "
        "doctor` shows both. For the CPU, state instance_group [ {{ kind: KIND_CPU }} ] in config.pbtxt",
    ),
    _cure(
        r"out of memory|Failed to allocate memory for requested buffer|can't allocate memory|std::bad_alloc",
        "it needs more memory than there is: lower max_batch_size, have fewer instances (instance_group [ {{ count: 1 }} ]), or "
        "send smaller inputs",
    ),
)
_RUNS: Final = (
    _cure(
        r"Expected more than 1 value per channel when training",
        "the model was exported in training mode: call model.eval() before the export",
    ),
    _cure(
        r"indices element out of data bounds|index out of range in self",
        "an input holds a number that is larger than the model's table, such as an unknown token or class",
    ),
    _cure(
        r"Unexpected input data type|must have the same dtype|one of the following scalar types|expected scalar type"
        r"|Input type \(.*\) and (bias|weight) type",
        "the model computes with another datatype than the configuration says: correct data_type in config.pbtxt, or export it "
        "again",
    ),
    _cure(
        r"forward\(\) is missing value for argument|forward\(\) expected at most",
        "the configuration's inputs are not those of the model's forward(): state one input for each of its parameters",
    ),
    _cure(
        r"Got invalid dimensions for input|Invalid rank for input|[Dd]imension mismatch|cannot be multiplied|Guard failed: "
        r"|attempting to re-use buffer|must match the size of tensor|to have \d+ channels, but got|is invalid for input of size"
        r"|greater than actual input size|but got input of size|requires axis length|cannot be reshaped to the requested shape",
        "the model does not take inputs of these sizes: send those that it was exported with, or export it again with those "
        "dimensions dynamic (dynamic_axes or dynamic_shapes)",
    ),
)


def cure(text: str) -> str:
    """What to do about an error with this text, without a full stop; "" if that is not known."""
    if len(text) > 2 * SEARCHED:
        text = f"{text[:SEARCHED]}\n{text[-SEARCHED:]}"
    for known in (*_ONNXRUNTIME, *_TORCH, *_DEVICES, *_RUNS):
        if found := known.pattern.search(text):
            return known.advice.format_map(found.groupdict())
    return ""


def with_cure(text: str) -> str:
    """The text, followed by its cure if there is one."""
    text = text.strip()
    advice = cure(text)
    return f"{text.rstrip('.')}. What to do: {advice}" if advice else text


def add_cure(error: BaseException) -> None:
    """Make the cure a part of an exception's own text; its type, by which failures are told apart, stays."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (with_cure(error.args[0]),)
