"""Single model files that are served without a repository, and the names under which they are served.

Pure: texts in, names out. Invariant: no two files of one worker have the same name.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from protocol.errors import ConfigError, InvalidArgument, quoted
from protocol.model_config import TensorSpec
from protocol.naming import Names


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFile:
    """A file and the model's name.

    Attributes:
        path: of the file.
        name: of the model; "" for the file's name without its suffix.
        inputs: stated on the command line, for a file that does not state them; not in its text form.
    """

    path: Path
    name: str = ""
    inputs: tuple[TensorSpec, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path.stem)

    def __str__(self) -> str:
        """In the form that `parse` accepts."""
        path = str(self.path) if self.path.is_absolute() else f"{os.curdir}{os.sep}{self.path}"
        return path if self.name == self.path.stem else f"{self.name}={path}"


def parse(text: str, is_file: Callable[[str], bool] = lambda _: False) -> ModelFile:
    """Parse `FILE` or `NAME=FILE`; a name has no slash, so `runs/lr=0.1/model.onnx` is a file.

    Args:
        text: from a command line.
        is_file: whether such a file exists, for files with an equals sign in their names.

    Raises:
        ConfigError: the name or the file is missing.
    """
    name, equals, path = text.partition("=")
    if not equals or os.sep in name or (is_file(text) and not is_file(path)):
        return ModelFile(Path(text))
    if not name or not path:
        raise ConfigError(f"{quoted(text)} must be FILE or NAME=FILE, for example: digits=models/digits/1/model.onnx")
    return ModelFile(Path(path), name)


def require_distinct(files: Sequence[ModelFile], taken: Collection[str] = ()) -> None:
    """Check the names of all files.

    Args:
        files: those that one worker serves.
        taken: names of the models in its repositories.

    Raises:
        ConfigError: two models would have the same name, or a name is not allowed; says how to give another.
    """
    by_name: dict[str, ModelFile] = {}
    for file in files:
        _require_possible(file)
        if file.name in taken:
            raise ConfigError(
                f"'{file.path}' would be served as '{file.name}', which is also a model of the repository; "
                f"give it another name: {_renamed([file], {*taken})}"
            )
        other = by_name.setdefault(file.name, file)
        if other is not file:
            both = f"'{other.path}' and '{file.path}'" if other.path != file.path else f"'{file.path}', given twice,"
            raise ConfigError(
                f"{both} would both be served as '{file.name}'; give each a name of its own: {_renamed([other, file], ())}"
            )


def _require_possible(file: ModelFile) -> None:
    try:
        Names().infer_topic(file.name, "1")
    except InvalidArgument as error:
        raise ConfigError(
            f"'{os.fsencode(file.path).decode(errors='replace')}' needs another name, as NAME=FILE: {error.message}"
        ) from None
    if os.sep in file.name or not file.name.isprintable() or file.name in (os.curdir, os.pardir):
        raise ConfigError(f"{quoted(file.name)} cannot be a model's name; give the file another, as NAME=FILE")


def _renamed(files: Iterable[ModelFile], taken: Collection[str]) -> str:
    """Distinct names for the files: their folders' names, or numbered ones."""
    proposals: dict[str, ModelFile] = {}
    for file in files:
        folders = [parent.name for parent in file.path.parents]
        candidates = [name for name in folders if name.isidentifier()] + [
            f"{file.name}-{number}" for number in (2, 3, 4)
        ]
        proposals[next(name for name in candidates if name not in proposals and name not in taken)] = file
    return " ".join(shlex.quote(f"{name}={file.path}") for name, file in proposals.items())
