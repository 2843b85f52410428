"""Files mistaken for models: the error says at once what each is and what to do; no framework is imported, nothing is run."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.archives import archive

ROOT = Path(__file__).parents[2]


class Trap:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('unpickled', 'w')",)


STATE_DICT = archive("net/data.pkl", "net/data/0", "net/version")
CASES = [
    ("net.pt", STATE_DICT, "is not TorchScript but the output of torch.save", "export the model"),
    ("net.pt", pickle.dumps(Trap()), "is not TorchScript but a Python pickle", "export the model to ONNX"),
    ("net.pt", b"", "is empty", "copy or export it again"),
    ("net.pt", b"<!DOCTYPE html><html>", "is not TorchScript but a web page (HTML)", "download it again"),
    ("net.onnx", b"version https://git-lfs.github.com/spec/v1\noid x\n", "but a Git LFS pointer", "git lfs pull"),
    ("net.onnx", b"<!DOCTYPE html><html>", "but a web page (HTML)", "download it again"),
    ("net.bin", STATE_DICT, "cannot be served: it is", "the output of torch.save"),
    ("net.pkl", pickle.dumps(Trap()), "cannot be served: it is", "a Python pickle"),
    ("net.h5", b"\x89HDF\r\n\x1a\n", "cannot be served: it is", "tf2onnx"),
    ("net.pb", b"\x08\x01\x12\x00tensorflow", "cannot be served: it is", "tf2onnx"),
]


@pytest.mark.parametrize(
    ("name", "content", "said", "advice"), CASES, ids=[f"{case[0]}-{case[2][:30]}" for case in CASES]
)
def test_it_is_said_at_once_what_the_file_is(tmp_path: Path, name: str, content: bytes, said: str, advice: str) -> None:
    (tmp_path / name).write_bytes(content)
    code = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules)); sys.argv = ['penstock', 'serve', sys.argv[1]]; "
        "import penstock.cli; penstock.cli.main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PENSTOCK_HTTP_PORT": "0", "PENSTOCK_METRICS_PORT": "0"},
        check=False,
    )

    last = done.stderr.splitlines()[-1]
    assert (done.returncode, last.startswith("penstock: ")) == (3, True), done.stderr
    assert said in last
    assert advice in last
    assert {"torch", "onnxruntime"}.isdisjoint(done.stdout.split())
    assert not (tmp_path / "unpickled").exists()
    assert "Traceback" not in done.stderr
