"""How a model.py is imported: with the files beside it, whatever other models have; and which of its faults end a load."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from tests.workers.backends.models import load, request, run, version_of
from tests.workers.backends.test_python import number, write
from workers.backends.python import PythonBackend
from workers.backends.python_modules import forget

RELATIVE = """
    from __future__ import annotations
    import dataclasses
    import numpy as np
    from . import more
    from .helper import FACTOR

    @dataclasses.dataclass
    class Weights:
        factor: float = FACTOR

    class Model:
        def predict(self, IN):
            from .late import ADD
            return {"OUT": IN * np.float32(Weights().factor * more.FACTOR) + np.float32(ADD)}
"""


def packages() -> set[str]:
    """The imported modules of models."""
    return {name for name in sys.modules if name.startswith("penstock_model_")}


def test_a_model_is_forgotten_while_others_are_imported() -> None:
    """Versions are loaded in several threads at once, and each load ends by forgetting the one before."""
    ended = threading.Event()

    def import_others() -> None:
        while not ended.is_set():
            for at in range(100):
                sys.modules[f"imported_meanwhile_{at}"] = sys
            for at in range(100):
                del sys.modules[f"imported_meanwhile_{at}"]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    others = threading.Thread(target=import_others)
    others.start()
    try:
        kind = type("Model", (), {"__module__": "penstock_model_gone"})
        for _ in range(2000):
            forget(kind)
    finally:
        ended.set()
        others.join()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("dedicated", [False, True])
def test_relative_imports_find_the_files_beside_the_model_and_no_other_models(tmp_path: Path, dedicated: bool) -> None:
    before, instances = packages(), {}
    for name, factor in (("a.b", 2), ("c", 7)):
        folder = write(tmp_path, name, RELATIVE).parent
        (folder / "helper.py").write_text(f"FACTOR = {factor}\n")
        (folder / "more.py").write_text("FACTOR = 10\n")
        (folder / "late.py").write_text(f"ADD = {factor} / 2\n")
        backend = PythonBackend()
        backend.dedicated = dedicated
        instances[factor] = load(backend, version_of(tmp_path, name))

    for factor, instance in instances.items():
        assert run(instance, [request(IN=number(1))])[0]["OUT"].tolist() == [[10 * factor + factor / 2]]
        instance.close()
    assert packages() == before


def test_a_version_that_is_a_package_is_one(tmp_path: Path) -> None:
    code = """
        from . import FACTOR

        class Model:
            def predict(self, IN):
                return {"OUT": IN * FACTOR}
    """
    folder = write(tmp_path, "m", code).parent
    (folder / "__init__.py").write_text("import numpy as np\nFACTOR = np.float32(3)\n")
    instance = load(PythonBackend(), version_of(tmp_path, "m"))

    assert run(instance, [request(IN=number(2))])[0]["OUT"].tolist() == [[6.0]]
    instance.close()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import sys\nsys.exit(3)", "import of model 'm' version 1 exited with code 3"),
        ("raise SystemExit('no licence')", "exited with code 1: no licence .*a model must raise an exception"),
        ("raise KeyboardInterrupt", "import of model 'm' version 1 failed: (?s:.*)KeyboardInterrupt"),
        (
            "class TritonPythonModel:\n    execute = print\n    def initialize(self, args): exit()",
            "initialize .* exited with code 0",
        ),
        (
            "class Model:\n  predict, inputs, outputs = print, {'IN': ('FP32', [1])}, {'OUT': ('FP32', [1])}\n  exit(4)",
            "import .* exited with code 4",
        ),
    ],
)
def test_a_model_that_ends_its_process_while_it_loads_is_refused_with_its_exit_code(
    tmp_path: Path, code: str, text: str
) -> None:
    before = packages()
    write(tmp_path, "m", "\n" + code)
    with pytest.raises(ConfigError, match=text):
        load(PythonBackend(), version_of(tmp_path, "m"))
    assert packages() == before
