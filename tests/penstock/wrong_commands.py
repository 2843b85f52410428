"""What newcomers type wrong, and all that is printed then: `python -m tests.penstock.wrong_commands` writes the golden file.

Read it after that, as somebody who knows nothing: each answer says what is wrong, where, and what to do.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from penstock.cli import main
from penstock.client import Client
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "wrong_commands.txt"
FREE = "--http-port 0 --metrics-port 0 --grpc-port off"
COMMANDS = f"""
penstock serv
penstock model.onnx
penstock serve
penstock serve models
penstock serve models/digits
penstock serve models/digits/1
penstock serve .
penstock serve empty
penstock serve model.onx
penstock serve -model.onnx
penstock serve a/model.onnx b/model.onnx
penstock serve 'my models/model.onnx' model.onnx
penstock serve model.onnx --http-prot 8080
penstock serve model.onnx --http-port PORT --metrics-port 0 --grpc-port off
penstock serve model.onnx --host 0.0.0.0 {FREE}
penstock serve model.onnx --host 192.0.2.1 --api-key k {FREE}
penstock serve model.onnx --host my.invalid --api-key k {FREE}
penstock serve model.onnx --metrics-host 192.0.2.1 {FREE}
penstock serve model.onnx --grpc-port PORT --http-port 0 --metrics-port 0
penstock serve model.onnx --metrics-port PORT --http-port 0 --grpc-port off
penstock serve model.onnx --allowed-digests digest.txt {FREE}
penstock serve --model-repository modles
penstock serve --model-repository model.onnx
penstock serve --model-repository models/digits {FREE}
penstock serve --model-repository models --load-model digits {FREE}
penstock serve --model-repository models --model-control-mode explicit --load-model digit {FREE}
penstock check .
penstock check models/digits
penstock check model.onnx
penstock check empty
penstock check modles
penstock new digits
penstock infer digits --random --url http://127.0.0.1:1
penstock infer digits --random --url https://127.0.0.1:PORT
penstock infer digits --random --url http://127.0.0.1:PORT
PENSTOCK_API_KEY=wrong penstock infer digits --random --url http://127.0.0.1:PORT
penstock infer digit --random AT
penstock infer digits AT
penstock infer digits --random --version 7 AT
penstock infer digits --random --version latest AT
penstock infer digits --ramdom AT
penstock infer --random digits AT
penstock infer '' --random AT
penstock infer ../digits --random AT
penstock infer add -i 'A=[[1, 2, 3' AT
penstock infer add -i 'A=[[NaN, 2, 3, 4]]' AT
penstock infer add -i 'A=[[1e400, 2, 3, 4]]' AT
penstock infer add -i A=1,2,3,4 AT
penstock infer add -i 'A=[1, 2, 3, 4]' AT
penstock infer add -i 'A=[["one", 2, 3, 4]]' AT
penstock infer add -i 'A=[[1, 2, 3, 4]]' AT
penstock infer add -i 'a=[[1, 2, 3, 4]]' AT
penstock infer add -i '[[1, 2, 3, 4]]' AT
penstock infer add -i 'A=[[1, 2, 3, 4]]' -i 'A=[[1, 2, 3, 4]]' AT
penstock infer add --random 9 AT
penstock infer digits --shape image=8,8 AT
penstock infer digits -f rows.jsonl AT
penstock infer digits -f row.jsonl AT
penstock infer digits -f windows.json AT
penstock models lod digits AT
penstock models load digit AT
penstock models unload digit AT
penstock models status digit AT
penstock models alias set digits prod=7 AT
penstock infer digits@prod --random AT
penstock batch submit digits gone.jsonl -o answers.jsonl AT
penstock batch submit digits row.jsonl -o answers.jsonl AT
penstock batch submit digit rows.jsonl -o answers.jsonl AT
penstock batch submit digits rows.jsonl AT
penstock worker
penstock worker --kafka localhost:9092
penstock gateway
penstock gateway --kafka 127.0.0.1:1 --redis redis://127.0.0.1:1 --http-port PORT --grpc-port off --metrics-port 0
penstock dead list
penstock status --gateway http://127.0.0.1:1
PENSTOCK_HTTP_PROT=9000 penstock new wine
PENSTOCK_GRPC_PORT=tcp://10.0.0.1:8001 penstock gateway
""".strip().splitlines()
"""AT is a server with a key, and PORT its port. The commands run in the folder that `prepare` fills."""
KEY = "right"
ADD = """
class Model:
    inputs = {"A": ("FP32", [4]), "B": ("FP32", [4])}
    outputs = {"SUM": ("FP32", [4])}
    max_batch_size = 8

    def predict(self, A, B):
        return {"SUM": A + B}
"""


def prepare(folder: Path) -> None:
    """Model files and folders."""
    shutil.copytree(ROOT / "examples" / "digits" / "models", folder / "models")
    for place in (folder, folder / "a", folder / "b", folder / "my models"):
        place.mkdir(exist_ok=True)
        shutil.copy(folder / "models" / "digits" / "1" / "model.onnx", place)
    (folder / "models" / "add" / "1").mkdir(parents=True)
    (folder / "models" / "add" / "1" / "model.py").write_text(ADD)
    (folder / "empty").mkdir()
    (folder / "-model.onnx").touch()
    (folder / "rows.jsonl").write_text("[[0]]\n")
    (folder / "digests.txt").touch()
    (folder / "windows.json").write_text('{"inputs": []}', encoding="utf-16")


def serve(folder: Path) -> Process:
    """A server of the folder's models, with a key and explicit control."""
    process = Process(
        "serve", folder / "serve.log", "serve", "--model-repository", str(folder / "models"), "--api-key", KEY,
        "--model-control-mode", "explicit", "--load-model", "*",
    )  # fmt: skip
    with Client(process.url, api_key=KEY) as client:
        wait_for("the server", client.ready)
    return process


def play(command: str, folder: Path, port: int) -> str:
    """The command and what it prints, with its exit code; with the server's port as PORT."""
    line = command.replace("AT", f"--url http://127.0.0.1:{port} --api-key {KEY}").replace("PORT", str(port))
    words = shlex.split(line)
    variables = dict(word.split("=", 1) for word in words[: words.index("penstock")])
    with contextlib.chdir(folder):
        code, printed = run(words[words.index("penstock") :], variables)
    text = re.sub(rf"\b{port}\b", "PORT", printed.replace(str(folder), "FOLDER"))
    return f"$ {command}\n{text}[exit {code}]\n"


def run(words: list[str], variables: dict[str, str]) -> tuple[int, str]:
    """The exit code and all that is printed, in this process: a new one would take longer to start than most commands take."""
    before, arguments = dict(os.environ), sys.argv
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    code = 0
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        del os.environ[name]
    os.environ.update(variables)
    sys.argv = words
    with io.StringIO() as text, contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.environ.clear()
            os.environ.update(before)
            sys.argv = arguments
            root.handlers[:], root.level = handlers, level
        return code, text.getvalue()


def all_played(folder: Path) -> str:
    """The golden file's text."""
    prepare(folder)
    process = serve(folder)
    try:
        return "\n".join(play(command, folder, process.http_port) for command in COMMANDS)
    finally:
        process.stop()


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        GOLDEN.write_text(all_played(Path(place).resolve()))
