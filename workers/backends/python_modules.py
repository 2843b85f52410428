"""Imports a model's model.py anew, as the only module of a package of its own, with its folders importable.

Invariants: `from .helper import f` finds the file beside model.py, and never another model's; `import helper` finds it while
model.py loads, and in a dedicated process always.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from protocol.errors import ConfigError
from workers.backends import pb_utils
from workers.backends.tracebacks import LoadError, sentence_of, trace_of
from workers.repository.version import ModelVersion

_IMPORT_LOCK: Final = threading.Lock()
_PACKAGES: Final = {
    "cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
"""Of modules that are often used and that packages of other names bring."""
_PREFIX: Final = "penstock_model_"
_NUMBERS: Final = itertools.count(1)


def import_model(version: ModelVersion, *, dedicated: bool) -> ModuleType:
    """The module, with its folder and its model's folder importable while it loads.

    Unless the process is dedicated to this model, siblings that it imported by name leave `sys.modules` again: two models may each
    have their own `utils.py`. Those that it imported relatively stay until `forget`.

    Raises:
        ConfigError: the file cannot be imported.
    """
    folders = [str(version.path.parent), str(version.folder)]
    with _IMPORT_LOCK, naming_model_errors(version, "import"):
        sys.modules.setdefault("triton_python_backend_utils", pb_utils)
        before = set(sys.modules)
        sys.path[:0] = folders
        package = _package(version, "" if dedicated else f"_{next(_NUMBERS)}")
        try:
            return _execute(f"{package}.model", version)
        except BaseException:
            _forget(package)
            raise
        finally:
            for folder in folders:
                sys.path.remove(folder)
            for name in () if dedicated else set(sys.modules) - before:
                if not name.startswith(package) and _is_below(sys.modules[name], folders):
                    del sys.modules[name]


def forget(model_class: type) -> None:
    """Drop the package of a class that no longer runs."""
    package = model_class.__module__.partition(".")[0]
    if package.startswith(_PREFIX):
        _forget(package)


def _forget(package: str) -> None:
    for name in [known for known in list(sys.modules) if known == package or known.startswith(f"{package}.")]:
        del sys.modules[name]


def _package(version: ModelVersion, number: str) -> str:
    """A package in model.py's folder; a version's folder may have an `__init__.py`."""
    name = f"{_PREFIX}{re.sub(r'[^0-9A-Za-z]', '_', version.model)}_{version.version}{number}"
    if name in sys.modules:
        return name
    folder = version.path.parent
    start = folder / "__init__.py"
    if start.is_file() and folder.name.isdigit():
        spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        package = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    else:
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(folder)]
    return name


def _execute(name: str, version: ModelVersion) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, version.path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{version.path.name} of model '{version.model}' is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_below(module: ModuleType, folders: Sequence[str]) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and any(Path(file).is_relative_to(folder) for folder in folders)


@contextlib.contextmanager
def naming_model_errors(version: ModelVersion, what: str) -> Iterator[None]:
    """Turn any exception of user code into an error that names the model, the step and the line."""
    try:
        yield
    except ConfigError:
        raise
    except SystemExit as exc:
        said = sentence_of(exc).removeprefix("SystemExit: ")
        raise LoadError(
            f"{what} of model '{version.model}' version {version.version} {said}; it called sys.exit, but a model must raise "
            "an exception that says what is wrong",
            trace_of(exc),
        ) from exc
    except BaseException as exc:
        raise LoadError(
            f"{what} of model '{version.model}' version {version.version} failed: {sentence_of(exc)}{_cure(exc)}",
            trace_of(exc),
        ) from exc


def _cure(error: BaseException) -> str:
    """What to do about the two that models often raise when they are moved to a server; "" for others."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        package = _PACKAGES.get(module, module)
        return (
            f"; install it where the server runs, often with: {shlex.quote(sys.executable)} -m pip install {package}, or put "
            f"{module}.py beside the model"
        )
    file = error.filename if isinstance(error, FileNotFoundError) else None
    if isinstance(file, str | bytes) and file and not Path(os.fsdecode(file)).is_absolute():
        return "; a relative path begins at the server's folder: Path(__file__).parent is the model's"
    return ""
