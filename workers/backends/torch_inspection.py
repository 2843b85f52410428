"""What PyTorch's files state about their tensors, completed by runs of zeros.

- A torch.export archive states everything, in JSON (`torch_files.exported`); it is not loaded for this.
- An AOTInductor package states its inputs in its generated source (`torch_files.compiled`); its outputs come from runs.
- A traced TorchScript module keeps the datatypes and shapes of its example inputs; a scripted one keeps only its inputs' names, so
  that configuration or `--input` must state the rest. Its outputs come from runs.

`torch_probe` has the rule for runs. A traced module's sizes other than the rows are those of its example.

What had to be loaded for the runs is handed on to the first instance, unless that is on a GPU or the runs left their mark in it.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from protocol.errors import ConfigError, FleetError
from protocol.model_config import ModelConfig, TensorSpec
from workers.backends import torch_programs
from workers.backends.cures import with_cure
from workers.backends.torch_binding import bind, in_names_of
from workers.backends.torch_probe import Run, probe_alone, probe_rows, reason, tensors_of
from workers.backends.torch_programs import Program, ScriptProgram
from workers.repository.completion import BackendMetadata
from workers.repository.stated_inputs import config_skeleton, input_flags
from workers.repository.torch_files import exported, traced
from workers.repository.torch_files.archive import TorchArchive
from workers.repository.torch_files.compiled import PackageSignature
from workers.repository.torch_files.signature import ANY, ProgramTensor
from workers.repository.version import ModelVersion

_EXAMPLE: Final = (3, 224, 224)
_TRACED: Final = "traced_inputs.pkl"


@dataclasses.dataclass(frozen=True, slots=True)
class Inspected:
    """What is known of a file.

    Attributes:
        metadata: with the configuration's names; None for TorchScript whose configuration states inputs and outputs.
        program: the file as it was loaded onto the CPU for the runs, as good as new; None if it was not, or is not.
    """

    metadata: BackendMetadata | None
    program: Program | None = None


def inspect(version: ModelVersion) -> Inspected:
    """Read the file, and run it where it states too little.

    Raises:
        ConfigError: the file cannot be loaded, or states too little; says what to add.
    """
    if version.path.suffix == ".pt2":
        signature = torch_programs.package_signature(version.path)
        found = Inspected(_exported(version)) if signature is None else _compiled(version, signature)
    elif version.config.inputs and version.config.outputs:
        return Inspected(None)
    else:
        found = _scripted(version)
    assert found.metadata is not None
    return dataclasses.replace(found, metadata=in_names_of(version.config, found.metadata))


def load_program(version: ModelVersion, device_id: int | None) -> Program:
    """Load the file onto a GPU, or the CPU for None.

    Raises:
        ConfigError: torch cannot load it.
    """
    device = "cpu" if device_id is None else f"cuda:{device_id}"
    try:
        if version.path.suffix != ".pt2":
            return torch_programs.load_script(version.path, device)
        signature = torch_programs.package_signature(version.path)
        if signature is None:
            return torch_programs.load_exported(version.path, device)
        return torch_programs.load_compiled(version.path, device_id, signature)
    except FleetError:
        raise
    except Exception as exc:  # torch raises RuntimeError, ValueError, pickling and zip errors alike
        expected = "a torch.export program" if version.path.suffix == ".pt2" else "TorchScript"
        raise ConfigError(
            f"torch cannot load model '{version.model}' version {version.version} (expected {expected}; state dicts and pickled "
            f"modules are refused because loading them runs code): {with_cure(reason(exc))}"
        ) from exc


def _exported(version: ModelVersion) -> BackendMetadata:
    with TorchArchive(version.path) as archive:
        name = next(
            (each for each in ("models/model.json", "serialized_exported_program.json") if each in archive.names), None
        )
        if name is None:
            raise ConfigError(f"'{version.path}' has no program named 'model'; torch.export.save writes one")
        try:
            return exported.metadata(archive.json(name))
        except ConfigError as error:
            raise ConfigError(f"'{version.path}': {error.message}") from None


def _compiled(version: ModelVersion, signature: PackageSignature) -> Inspected:
    """The program checks no sizes, so that it only gets those that its source allows."""
    inputs = signature.inputs
    if inputs is None:
        raise ConfigError(
            f"'{version.path}' is an AOTInductor package whose source does not state its inputs; make it again with a newer torch"
        )
    batches = _may_batch(version.config) and all(each.sizes and each.sizes[0].value == ANY for each in inputs)
    program = load_program(version, None)
    return Inspected(_probed(version, program, inputs if batches else (), inputs), program)


def _scripted(version: ModelVersion) -> Inspected:
    """With stated inputs: first with rows in front, then exactly as stated, unless the configuration says which."""
    program = load_program(version, None)
    assert isinstance(program, ScriptProgram)
    if program.others:
        name, kind = next(iter(program.others.items()))
        cure = f"makes '{name}' of them" if "Tensor" in kind else f"calls this one with a fixed '{name}'"
        raise ConfigError(
            f"forward of '{version.path}' takes '{name}' of type {kind}, and requests carry only tensors; export a wrapper whose "
            f"forward takes tensors and {cure}"
        )
    if not program.parameters:
        raise ConfigError(
            f"forward of '{version.path}' takes no inputs, so there is nothing that a request could ask it: export it again with "
            "what varies as a tensor"
        )
    before = program.state()
    metadata = _script_metadata(version, program)
    return Inspected(metadata, program if before is not None and program.state() == before else None)


def _script_metadata(version: ModelVersion, program: ScriptProgram) -> BackendMetadata:
    config = version.config
    if not config.inputs:
        examples = list(tensors_of(_examples(version, program), rows=False))
        batches = _may_batch(config) and len({each.sizes[:1] for each in examples}) == 1
        return _probed(version, program, examples if batches else (), examples)
    parameters = bind(config, program.parameters, program.required)

    def run(tensors: Mapping[str, Any]) -> Any:
        return program({parameters[name]: tensor for name, tensor in tensors.items()})

    rows = list(tensors_of(config.inputs, rows=True)) if _may_batch(config) else []
    return _probed(version, run, rows, () if config.max_batch_size else list(tensors_of(config.inputs, rows=False)))


def _may_batch(config: ModelConfig) -> bool:
    return not config.batch_size_stated or config.max_batch_size > 0


def _probed(
    version: ModelVersion, run: Run, rows: Sequence[ProgramTensor], alone: Sequence[ProgramTensor]
) -> BackendMetadata:
    """The metadata of a model that batches, or else of one that does not; empty inputs are not tried.

    Raises:
        ConfigError: it does not run; quotes its reasons.
    """
    problems = []
    for inputs, attempt, what in ((rows, probe_rows, "with rows"), (alone, probe_alone, "alone")):
        if inputs:
            try:
                return attempt(run, inputs)
            except ConfigError as error:
                problems.append(f"{what}: {error.message}" if rows and alone else error.message)
    raise ConfigError(f"'{version.path}' cannot be completed: {'; '.join(problems) or 'it has no inputs'}")


def _examples(version: ModelVersion, program: ScriptProgram) -> list[TensorSpec]:
    """The inputs that a traced module was made with.

    Raises:
        ConfigError: it has none; with a configuration to complete.
    """
    with TorchArchive(version.path) as archive:
        examples = traced.example_inputs(archive.read(_TRACED, traced.MAX_PICKLE)) if _TRACED in archive.names else None
    if examples is None or len(examples) != len(program.parameters):
        raise ConfigError(_unknown_inputs(version, program))
    return [
        TensorSpec(name, example.datatype, example.shape)
        for name, example in zip(program.parameters, examples, strict=True)
    ]


def _unknown_inputs(version: ModelVersion, program: ScriptProgram) -> str:
    """What a scripted module lacks, and where to say it."""
    path = version.path
    inputs = [TensorSpec(name, "FP32", _EXAMPLE) for name in program.parameters if name in program.required]
    config = "\n".join(f"    {line}" for line in config_skeleton(inputs).splitlines())
    where = f"in '{version.folder / 'config.pbtxt'}'"
    if path.parent == version.folder:
        where = (
            f"on the command line:\n    penstock serve {shlex.quote(str(path))} {input_flags(inputs)}\n"
            f"or in a repository, with the file as {version.model}/1/model.pt, in {version.model}/config.pbtxt"
        )
    return (
        f"TorchScript '{path}' states the names of its inputs ({', '.join(program.parameters)}), but neither datatypes nor shapes. "
        f"State them without the batch dimension (FP32 and 3,224,224 are placeholders; -1 is any size) {where}:\n{config}"
    )
