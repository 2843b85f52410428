"""PyTorch's three kinds of files as programs: tensors by parameter in, whatever the model returns out.

A torch.export archive and an AOTInductor package are told apart by what is in them, TorchScript by its suffix. Nothing is
unpickled: torch loads tensors only (`_tensors_only`), and an archive with pickled objects is refused before torch opens it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from protocol.errors import ConfigError
from workers.repository.torch_files import compiled
from workers.repository.torch_files.archive import TorchArchive
from workers.repository.torch_files.compiled import PackageSignature

PACKAGE: Final = "data/aotinductor/"
"""The folder of an archive that makes it an AOTInductor package."""
_TENSORS_ONLY: Final = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_PICKLED: Final = "opaque_obj"
"""The names of members that torch unpickles whatever its settings."""
_MUTABLE: Final = frozenset({"ListType", "DictType"})
_loading: Final = threading.Lock()


class Program(Protocol):
    """A loaded model.

    Attributes:
        parameters: the names of the tensors that it takes, in order; those of TorchScript's `Optional[Tensor]` are among them.
        required: those that every call must give.
    """

    parameters: tuple[str, ...]
    required: frozenset[str]

    def __call__(self, tensors: Mapping[str, Any]) -> Any:
        """One forward.

        Args:
            tensors: by parameter, on the program's device.
        """

    def state(self) -> tuple[int, ...] | None:
        """Equal before and after runs that leave the program as it was; None if that cannot be seen."""


class ScriptProgram:
    """A TorchScript module."""

    def __init__(self, module: Any) -> None:
        self._module = module
        arguments = list(module.forward.schema.arguments)
        if arguments and arguments[0].type.kind() == "ClassType":  # the module, whatever its author calls `self`
            arguments = arguments[1:]
        tensors = [argument for argument in arguments if str(argument.type) in ("Tensor", "Optional[Tensor]")]
        needed = [argument.name for argument in arguments if not argument.has_default_value()]
        self.parameters = tuple(argument.name for argument in tensors)
        self.required = frozenset(needed) & {argument.name for argument in tensors if str(argument.type) == "Tensor"}
        self.others = {argument.name: str(argument.type) for argument in arguments if argument.name in needed}
        for name in self.parameters:
            self.others.pop(name, None)

    def __call__(self, tensors: Mapping[str, Any]) -> Any:
        """See `Program`."""
        return self._module(**tensors)

    def state(self) -> tuple[int, ...] | None:
        """See `Program`: how often each of the module's tensors was written to.

        None if a run may leave something that cannot be counted: it sets attributes, or uses lists or dicts of the module.
        """
        import torch

        graph = self._module.inlined_graph
        read = graph.findAllNodes("prim::GetAttr", True)
        if graph.findAllNodes("prim::SetAttr", True) or any(node.output().type().kind() in _MUTABLE for node in read):
            return None
        names = dict.fromkeys(node.s("name") for node in read if node.output().type().kind() == "TensorType")
        held = [each._c.getattr(name) for each in self._module.modules() for name in names if each._c.hasattr(name)]
        return tuple(value._version for value in held if isinstance(value, torch.Tensor))


class ExportedProgram:
    """A torch.export program. Flags and other constants that it was exported with are given again in every call."""

    def __init__(self, program: Any, device: str) -> None:
        import torch

        self._module = program.module().to(device)
        self._spec = program.call_spec.in_spec
        self._unflatten = torch.utils._pytree.tree_unflatten
        self._leaves: list[tuple[str, Any]] = []
        for spec in program.graph_signature.input_specs:
            if spec.kind.name == "USER_INPUT":
                constant = not hasattr(spec.arg, "value")
                self._leaves.append((spec.arg.name if constant else "", getattr(spec.arg, "value", None)))
        self.parameters = tuple(name for name, _ in self._leaves if name)
        self.required = frozenset(self.parameters)

    def __call__(self, tensors: Mapping[str, Any]) -> Any:
        """See `Program`."""
        leaves = [tensors[name] if name else value for name, value in self._leaves]
        arguments, keywords = self._unflatten(leaves, self._spec)
        return self._module(*arguments, **keywords)

    def state(self) -> tuple[int, ...] | None:
        """See `Program`: how often each of its tensors was written to."""
        return tuple(value._version for value in (*self._module.parameters(), *self._module.buffers()))


class CompiledProgram:
    """An AOTInductor package: native code for one kind of processor."""

    def __init__(self, loader: Any, signature: PackageSignature) -> None:
        self._run = getattr(loader, "boxed_run", None) or loader.run
        inputs = signature.inputs
        self.parameters = tuple(
            [each.name for each in inputs]
            if inputs is not None
            else [f"INPUT__{index}" for index in range(signature.input_count)]
        )
        self.required = frozenset(self.parameters)
        self._outputs = signature.output_names

    def __call__(self, tensors: Mapping[str, Any]) -> Any:
        """See `Program`; outputs by name."""
        return dict(zip(self._outputs, self._run([tensors[name] for name in self.parameters]), strict=True))

    def state(self) -> None:
        """See `Program`: native code may keep what it likes."""


def load_script(path: Path, device: str) -> ScriptProgram:
    """Load TorchScript.

    Raises:
        ConfigError: its forward cannot be called with tensors.
    """
    import torch

    with warnings.catch_warnings():  # TorchScript is deprecated upstream, but Triton's repositories hold it
        warnings.simplefilter("ignore")
        return ScriptProgram(torch.jit.load(str(path), map_location=device).eval())


def load_exported(path: Path, device: str) -> ExportedProgram:
    """Load a torch.export program.

    Raises:
        ConfigError: the archive has pickled Python objects.
    """
    import torch

    with TorchArchive(path) as archive:
        names = archive.names
    pickled = [name for name in names if _PICKLED in name.lower()]
    if pickled:
        raise ConfigError(
            f"'{path}' holds a pickled Python object ('{pickled[0]}'), and loading it would run code from it"
        )
    with _tensors_only():
        if "archive_format" in names:
            # torch.export.load would log torch's own error and then raise another one
            from torch.export.pt2_archive._package import load_pt2

            return ExportedProgram(load_pt2(str(path)).exported_programs["model"], device)
        return ExportedProgram(torch.export.load(str(path)), device)


def package_signature(path: Path) -> PackageSignature | None:
    """What an AOTInductor package states; None if the archive is none.

    Raises:
        ConfigError: it has several models, or its source is not among its files.
    """
    with TorchArchive(path) as archive:
        models = {name.removeprefix(PACKAGE).partition("/")[0] for name in archive.matching(PACKAGE, "")}
        if not models:
            return None
        if models != {"model"}:
            raise ConfigError(
                f"'{path}' is an AOTInductor package of the model(s) {', '.join(sorted(models))}; one named 'model' can be served, "
                "as aoti_compile_and_package writes it"
            )
        sources = [*archive.matching(f"{PACKAGE}model/", ".wrapper.cpp")] or [
            *archive.matching(f"{PACKAGE}model/", ".cpp")
        ]
        if not sources:
            raise ConfigError(
                f"'{path}' is an AOTInductor package without the source that torch generated, which states its inputs; make "
                "it with torch._inductor.aoti_compile_and_package"
            )
        return compiled.signature(archive.read(sources[0]).decode(errors="replace"))


def load_compiled(path: Path, device_id: int | None, signature: PackageSignature) -> CompiledProgram:
    """Load an AOTInductor package: this runs native code from it."""
    import torch

    model = torch._inductor.aoti_load_package(str(path), device_index=-1 if device_id is None else device_id)
    return CompiledProgram(model.loader, signature)


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Have torch.load refuse Python objects: torch.export.load asks it to unpickle a file that holds more than tensors."""
    with _loading:
        before = os.environ.get(_TENSORS_ONLY)
        os.environ[_TENSORS_ONLY] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_TENSORS_ONLY]
            else:
                os.environ[_TENSORS_ONLY] = before
